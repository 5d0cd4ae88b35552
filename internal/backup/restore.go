package backup

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
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
	if err := checkAbout(archive, prefix); err != nil {
		return err
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

// checkAbout reads what a backup says of itself, and whether it can be restored here.
func checkAbout(archive *tar.Reader, prefix string) error {
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
	return nil
}

// errRestored begins what is said of a restore that has ended well, but not in all respects.
var errRestored = errors.New("all was restored")

// Restore has the server keep what a backup has, so many times; nothing, if it is not whole. It
// refuses where events or memberships are kept already. Hubs that run there find what was
// restored, and as often as they have it kept.
func Restore(ctx context.Context, nc *nats.Conn, prefix string, replicas int, from io.Reader) (s Summary, err error) {
	archive := tar.NewReader(from)
	if err := checkAbout(archive, prefix); err != nil {
		return s, err
	}
	mark, err := stream.BeginRestoring(ctx, nc, prefix)
	if err != nil {
		return s, err
	}
	usable := false // what is there then
	defer func() {
		left := mark.End(usable)
		if err == nil && left != nil {
			left = fmt.Errorf("%w, but %w", errRestored, left)
		}
		err = errors.Join(err, left)
	}()
	all := taking{nc: nc, prefix: prefix, replicas: replicas, sum: &s}
	if err := all.claim(ctx); err != nil {
		// All is as it was, which may be of a restore that was cut off.
		usable = !errors.Is(err, stream.ErrLeft) && (!mark.Again || errors.Is(err, errKept))
		return s, err
	}
	if err := all.take(ctx, archive); err != nil {
		if all.taken != nil {
			return s, err
		}
		// What was taken so far would be taken for all.
		if left := removeAll(context.WithoutCancel(ctx), nc, prefix); left != nil {
			return s, errors.Join(err, fmt.Errorf("%w: %w", stream.ErrLeft, left))
		}
		usable = true
		return s, err
	}
	if err := openAll(ctx, nc, append(all.opened, all.history)); err != nil { // some may be open: what was acknowledged there is not removed
		return s, fmt.Errorf("%w: all of it, which could not be opened (run the restore again): %w", stream.ErrLeft, err)
	}
	usable = true
	return s, nil
}

// taking is of a backup's streams, which stay shut.
type taking struct {
	nc       *nats.Conn
	prefix   string
	replicas int // of each stream
	sum      *Summary
	taken    *info    // the history, if a restore before has taken all; nil: none has
	opened   []opened // the streams, as they are to be, but the history
	history  opened   // which is opened last, for then all is there
}

// claim finds what a restore before has left to be opened, or has nothing be kept there any more.
func (all *taking) claim(ctx context.Context) (err error) {
	if all.taken, err = taken(ctx, all.nc, all.prefix); err != nil {
		return err
	}
	if all.taken != nil {
		all.replicas = all.taken.replicas()
		return nil
	}
	there, err := claim(ctx, all.nc, all.prefix)
	all.replicas = max(all.replicas, there)
	return err
}

// take replaces what is there by what an archive has, or only reads that if it was taken before.
// A file that is not whole is an error.
func (all *taking) take(ctx context.Context, archive *tar.Reader) error {
	if all.taken == nil {
		if err := removeAll(ctx, all.nc, all.prefix); err != nil { // also those that the backup does not have: they are of before
			return err
		}
	}
	var to *transfer // of the stream that is being read
	for {
		entry, err := archive.Next()
		if err != nil {
			return errIncomplete
		}
		name, config := strings.CutSuffix(entry.Name, ".json")
		if to != nil && (config || entry.Name == endName) {
			if err := to.finish(ctx); err != nil {
				return fmt.Errorf("stream %s: %w", to.stream, err)
			}
			to = nil
		}
		if entry.Name == endName {
			return nil
		}
		text, err := io.ReadAll(archive)
		if err != nil {
			return errIncomplete
		}
		if config {
			to, err = all.begin(ctx, name, text)
		} else {
			all.sum.Bytes += int64(len(text))
			if to != nil {
				err = to.send(ctx, text)
			}
		}
		if err != nil {
			return fmt.Errorf("stream %s: %w", name, err)
		}
	}
}

// transfer is of one stream to the server.
type transfer struct {
	nc      *nats.Conn
	stream  string
	subject string // where the pieces go
}

func removeAll(ctx context.Context, nc *nats.Conn, prefix string) error {
	for _, name := range slices.Backward(streams(prefix)) { // the epoch last: a history is nothing without it
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
func (all *taking) begin(ctx context.Context, name string, text []byte) (*transfer, error) {
	var s snapshot
	config := map[string]any{}
	if json.Unmarshal(text, &s) != nil || json.Unmarshal(s.Config, &config) != nil {
		return nil, errIncomplete
	}
	config["num_replicas"] = all.replicas
	if as := (opened{name, maps.Clone(config)}); name == all.prefix+"_journal" {
		all.history = as
	} else {
		all.opened = append(all.opened, as)
	}
	all.sum.Messages += messagesOf(s.State)
	if all.taken != nil {
		return nil, all.sameHistory(name, s.State)
	}
	config["subjects"] = []string{stream.UnfinishedSubject(all.prefix, name)}
	delete(config, "republish")
	question, _ := json.Marshal(map[string]any{"config": config, "state": s.State})
	var answer struct {
		Subject string              `json:"deliver_subject"`
		Error   *jetstream.APIError `json:"error"`
	}
	for n := 1; ; n++ {
		answer.Error = nil
		if err := ask(ctx, all.nc, "$JS.API.STREAM.RESTORE."+name, question, &answer); err != nil {
			return nil, err
		}
		switch {
		case answer.Error == nil:
			return &transfer{all.nc, name, answer.Subject}, nil
		case answer.Error.ErrorCode != codeExists || n == mostTries:
			return nil, answer.Error
		}
		select {
		case <-time.After(tryEvery):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if err := remove(ctx, all.nc, name); err != nil {
			return nil, err
		}
	}
}

// sameHistory refuses another history than the one that was taken before.
func (all *taking) sameHistory(name string, state json.RawMessage) error {
	if name != all.prefix+"_journal" {
		return nil
	}
	was, is := all.taken.State, info{}.State
	json.Unmarshal(state, &is)
	if is.Last != was.Last || !is.At.Equal(was.At) {
		return errOther
	}
	return nil
}

var errOther = errors.New("the restore of another backup was cut off there when all of it was there: run that one again, or begin with a new folder")

// send gives the server a piece, and waits until it has taken it.
func (t *transfer) send(ctx context.Context, piece []byte) error {
	ctx, cancel := context.WithTimeout(ctx, wordTime)
	defer cancel()
	for try := 1; ; try++ {
		msg, err := t.nc.RequestWithContext(ctx, t.subject, piece)
		if errors.Is(err, nats.ErrNoResponders) && try < mostTries && ctx.Err() == nil {
			time.Sleep(tryEvery / 10) // a busy server names the subject a moment before it listens
			continue
		}
		if err != nil {
			return err
		}
		return refusal(msg)
	}
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
	if answer.Error != nil && answer.Error.ErrorCode == codeNotRestored && strings.Contains(answer.Error.Description, "does not match store") {
		return errUnfinished
	}
	if answer.Error != nil {
		return answer.Error
	}
	return nil
}

// codeNotRestored: the server could not restore a stream.
const codeNotRestored = 10062

// errUnfinished: a stream was deleted, or its restore broken off, a moment ago, and the server
// still had something of it. Nothing is left of this restore either.
var errUnfinished = errors.New("the server had not finished removing what was there before; run the restore again")
