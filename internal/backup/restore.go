package backup

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/broker/stream"
)

// errIncomplete: the file ends too soon.
var errIncomplete = errors.New("the file is no whole backup: its end is missing; nothing that it has was taken")

// Check reads a backup and says whether it is whole, and one of this prefix.
func Check(from io.Reader, prefix string) error {
	archive := tar.NewReader(from)
	entry, err := archive.Next()
	if err != nil || entry.Name != aboutName {
		return errors.New("the file is no backup of a hub")
	}
	var a about
	if err := json.NewDecoder(archive).Decode(&a); err != nil {
		return errIncomplete
	}
	switch {
	case a.Format != format:
		return fmt.Errorf("the backup has format %d, and this program reads format %d", a.Format, format)
	case a.Prefix != prefix:
		return fmt.Errorf("the backup is of hubs with REALTIME_NATS_PREFIX=%s, and it is %s here", a.Prefix, prefix)
	}
	for {
		switch entry, err := archive.Next(); {
		case err != nil:
			return errIncomplete
		case entry.Name == endName:
			return nil
		}
	}
}

// Read has the server keep what a backup has, that Check has found good, so many times. It
// refuses where events are kept already. Hubs that run there find what was restored.
func Read(ctx context.Context, nc *nats.Conn, prefix string, replicas int, from io.Reader) (s Summary, err error) {
	if err := empty(ctx, nc, prefix); err != nil {
		return s, err
	}
	end, err := stream.BeginRestoring(ctx, nc, prefix)
	if err != nil {
		return s, err
	}
	defer end()
	if err := removeAll(ctx, nc, prefix); err != nil { // also those that the backup does not have: they are of before
		return s, err
	}
	defer func() {
		if err != nil { // what was taken so far would be in the way of the next time
			err = errors.Join(err, removeAll(context.WithoutCancel(ctx), nc, prefix))
		}
	}()
	archive := tar.NewReader(from)
	var to *transfer // of the stream that is being read
	for {
		entry, err := archive.Next()
		if err != nil {
			return s, errIncomplete
		}
		name, config := strings.CutSuffix(entry.Name, ".json")
		if to != nil && (config || entry.Name == endName) {
			if err := to.finish(ctx); err != nil {
				return s, fmt.Errorf("stream %s: %w", to.stream, err)
			}
			to = nil
		}
		switch {
		case entry.Name == endName:
			return s, nil
		case entry.Name == aboutName:
			continue
		}
		text, err := io.ReadAll(archive)
		if err != nil {
			return s, errIncomplete
		}
		if config {
			to, err = begin(ctx, nc, name, replicas, text, &s)
		} else if to != nil {
			err = to.send(ctx, text)
			s.Bytes += int64(len(text))
		}
		if err != nil {
			return s, fmt.Errorf("stream %s: %w", name, err)
		}
	}
}

// empty refuses what a restore would replace.
func empty(ctx context.Context, nc *nats.Conn, prefix string) error {
	var info struct {
		State struct {
			Subjects map[string]int `json:"subjects"`
		} `json:"state"`
		Error *jetstream.APIError `json:"error"`
	}
	question, _ := json.Marshal(map[string]string{"subjects_filter": prefix + ".ev.*"})
	if err := ask(ctx, nc, "$JS.API.STREAM.INFO."+prefix+"_journal", question, &info); err != nil {
		return err
	}
	switch {
	case len(info.State.Subjects) > 0:
		return fmt.Errorf("events of %d tenants are kept there already, which a restore would replace: restore into what is new", len(info.State.Subjects))
	case info.Error != nil && info.Error.ErrorCode != codeNotFound:
		return info.Error
	}
	return nil
}

// transfer is of one stream to the server.
type transfer struct {
	nc      *nats.Conn
	stream  string
	subject string // where the pieces go
}

func removeAll(ctx context.Context, nc *nats.Conn, prefix string) error {
	for _, name := range streams(prefix) {
		if err := remove(ctx, nc, name); err != nil {
			return fmt.Errorf("stream %s: %w", name, err)
		}
	}
	return nil
}

// remove deletes a stream, if it is there.
func remove(ctx context.Context, nc *nats.Conn, name string) error {
	var answer struct {
		Error *jetstream.APIError `json:"error"`
	}
	err := ask(ctx, nc, "$JS.API.STREAM.DELETE."+name, nil, &answer)
	if err == nil && answer.Error != nil && answer.Error.ErrorCode != codeNotFound {
		err = answer.Error
	}
	return err
}

// A hub may be just making a stream when a restore begins, and a deletion takes effect a little
// later on several servers.
const (
	codeExists = 10130 // a stream of the name that is to be restored
	mostTries  = 50
	tryEvery   = 200 * time.Millisecond
)

// begin tells the server which stream comes.
func begin(ctx context.Context, nc *nats.Conn, name string, replicas int, text []byte, sum *Summary) (*transfer, error) {
	var s snapshot
	config := map[string]any{}
	if json.Unmarshal(text, &s) != nil || json.Unmarshal(s.Config, &config) != nil {
		return nil, errIncomplete
	}
	config["num_replicas"] = replicas
	question, _ := json.Marshal(map[string]any{"config": config, "state": s.State})
	var answer struct {
		Subject string              `json:"deliver_subject"`
		Error   *jetstream.APIError `json:"error"`
	}
	for n := 1; ; n++ {
		answer.Error = nil
		if err := ask(ctx, nc, "$JS.API.STREAM.RESTORE."+name, question, &answer); err != nil {
			return nil, err
		}
		switch {
		case answer.Error == nil:
			sum.Messages += messagesOf(s.State)
			return &transfer{nc, name, answer.Subject}, nil
		case answer.Error.ErrorCode != codeExists || n == mostTries:
			return nil, answer.Error
		}
		select {
		case <-time.After(tryEvery):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if err := remove(ctx, nc, name); err != nil {
			return nil, err
		}
	}
}

// send gives the server a piece, and waits until it has taken it.
func (t *transfer) send(ctx context.Context, piece []byte) error {
	ctx, cancel := context.WithTimeout(ctx, wordTime)
	defer cancel()
	msg, err := t.nc.RequestWithContext(ctx, t.subject, piece)
	if err != nil {
		return err
	}
	return refusal(msg)
}

// finish says that it has all, and waits until the stream is there.
func (t *transfer) finish(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	msg, err := t.nc.RequestWithContext(ctx, t.subject, nil)
	if err != nil {
		return err
	}
	return refusal(msg)
}

// refusal is the server's, if its answer is one.
func refusal(msg *nats.Msg) error {
	var answer struct {
		Error *jetstream.APIError `json:"error"`
	}
	if len(msg.Data) == 0 {
		return nil
	}
	if err := json.Unmarshal(msg.Data, &answer); err != nil {
		return err
	}
	if answer.Error != nil {
		return answer.Error
	}
	return nil
}
