package backup

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// format is that of the file: a tar archive of about.json, then for each stream NAME.json and
// its snapshot in pieces, NAME/1 and so on, and the entry end.
const format = 1

// The archive's entries.
const (
	aboutName = "about.json"
	endName   = "end"
)

// about is what a backup says of itself.
type about struct {
	Format int       `json:"format"`
	Prefix string    `json:"prefix"` // of the streams and their subjects
	Begun  time.Time `json:"begun"`
}

// streams are those of a prefix, in the order in which they are written: what is newer than
// it should be does less harm in a later one. An event has its duty after it has its place, and
// a duty is over after its report is in the outbox.
func streams(prefix string) []string {
	return []string{"KV_" + prefix + "_epoch", prefix + "_table", prefix + "_journal", prefix + "_duties", prefix + "_outbox"}
}

// Summary is what was written or read.
type Summary struct {
	Messages uint64 // of the streams: events, memberships, places, duties, what services are told
	Bytes    int64  // of the snapshots
}

// snapshot is what the server says of a stream before it sends it (NATS ADR-2, "Snapshot").
type snapshot struct {
	Config json.RawMessage `json:"config"`
	State  json.RawMessage `json:"state"`

	Error *jetstream.APIError `json:"error,omitempty"`
}

// codeNotFound: there is no such stream.
const codeNotFound = 10059

// wordTime is how long the server may be silent.
const wordTime = 10 * time.Second

var errNothing = errors.New("nothing is kept there: no hub with this REALTIME_NATS_PREFIX has run on it")

var errHalf = errors.New("what is kept is not whole: a restore goes on there, or was cut off (run it again)")

// Save writes the streams of a prefix.
func Save(ctx context.Context, nc *nats.Conn, prefix string, to io.Writer) (s Summary, err error) {
	archive := tar.NewWriter(to)
	text, _ := json.Marshal(about{format, prefix, time.Now().UTC()})
	if err := put(archive, aboutName, text); err != nil {
		return s, err
	}
	missing := map[string]bool{}
	for _, name := range streams(prefix) {
		switch err := writeStream(ctx, nc, prefix, name, archive, &s); {
		case errors.Is(err, errHalf):
			return s, err
		case isNotFound(err):
			missing[name] = true
		case err != nil:
			return s, fmt.Errorf("stream %s: %w", name, err)
		}
	}
	switch {
	case len(missing) == len(streams(prefix)):
		return s, errNothing
	case missing[prefix+"_journal"]:
		return s, errHalf
	}
	return s, errors.Join(put(archive, endName, nil), archive.Close())
}

func isNotFound(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && api.ErrorCode == codeNotFound
}

func put(archive *tar.Writer, name string, text []byte) error {
	if err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(text))}); err != nil {
		return err
	}
	_, err := archive.Write(text)
	return err
}

// writeStream has the server send a stream, as it is now.
func writeStream(ctx context.Context, nc *nats.Conn, prefix, name string, archive *tar.Writer, sum *Summary) error {
	pieces, err := nc.SubscribeSync(nats.NewInbox())
	if err != nil {
		return err
	}
	defer pieces.Unsubscribe()
	question, _ := json.Marshal(map[string]any{"deliver_subject": pieces.Subject, "no_consumers": true, "chunk_size": 512 << 10})
	var s snapshot
	if err := ask(ctx, nc, "$JS.API.STREAM.SNAPSHOT."+name, question, &s); err != nil {
		return err
	}
	if s.Error != nil {
		return s.Error
	}
	if isShut(prefix, name, s.Config) {
		return errHalf
	}
	text, _ := json.Marshal(s)
	if err := put(archive, name+".json", text); err != nil {
		return err
	}
	sum.Messages += messagesOf(s.State)
	for n := 1; ; n++ {
		piece, err := next(ctx, pieces)
		switch {
		case err != nil:
			return err
		case len(piece.Data) == 0:
			return endOf(piece)
		}
		if err := put(archive, fmt.Sprintf("%s/%d", name, n), piece.Data); err != nil {
			return err
		}
		sum.Bytes += int64(len(piece.Data))
		if piece.Reply != "" {
			if err := piece.Respond(nil); err != nil {
				return err
			}
		}
	}
}

// next waits for a piece.
func next(ctx context.Context, pieces *nats.Subscription) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, wordTime)
	defer cancel()
	msg, err := pieces.NextMsgWithContext(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = errors.New("the server has stopped sending")
	}
	return msg, err
}

// endOf is why the server has ended: status 204, or none, says that all was sent.
func endOf(last *nats.Msg) error {
	if status := last.Header.Get("Status"); status != "" && status != "204" {
		return fmt.Errorf("the server has broken off: %s %s", status, last.Header.Get("Description"))
	}
	return nil
}

var errNoAnswer = errors.New("what is kept cannot be reached now: too few of several hubs run, the folder's disk is full, or JetStream is off on the NATS servers")

// ask asks the server, and reads its answer.
func ask(ctx context.Context, nc *nats.Conn, subject string, question []byte, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, wordTime)
	defer cancel()
	msg, err := nc.RequestWithContext(ctx, subject, question)
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrNoResponders) {
		return errNoAnswer
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(msg.Data, answer)
}

// info is what the server says of a stream.
type info struct {
	Config json.RawMessage `json:"config"`
	State  struct {
		Last     uint64         `json:"last_seq"`
		At       time.Time      `json:"last_ts"`
		Subjects map[string]int `json:"subjects"` // those asked for that have messages
	} `json:"state"`

	Error *jetstream.APIError `json:"error"`
}

// replicas is how many keep the stream.
func (i info) replicas() int {
	var config struct {
		Replicas int `json:"num_replicas"`
	}
	json.Unmarshal(i.Config, &config)
	return config.Replicas
}

// look asks how a stream is, and, if subjects are named, which of them it has.
func look(ctx context.Context, nc *nats.Conn, name, subjects string) (i info, err error) {
	var question []byte
	if subjects != "" {
		question, _ = json.Marshal(map[string]string{"subjects_filter": subjects})
	}
	if err = ask(ctx, nc, "$JS.API.STREAM.INFO."+name, question, &i); err == nil && i.Error != nil {
		err = i.Error
	}
	return i, err
}

func messagesOf(state json.RawMessage) uint64 {
	var s struct {
		Messages uint64 `json:"messages"`
	}
	json.Unmarshal(state, &s)
	return s.Messages
}
