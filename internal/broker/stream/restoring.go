package stream

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// While a backup is restored, hubs make no stream that is missing: it is about to come. A stream
// of the name restoringSuffix says so until all is there, and who restores answers at the subject
// restorerSuffix as long as it lives. A mark without anybody is of a restore that was cut off:
// the journal, which is opened last, says whether that had finished.
const (
	restoringSuffix = "_restoring"
	restorerSuffix  = ".restorer"
)

// UnfinishedSubject is the only one that a stream has while it is restored, so that nothing is
// acknowledged that a restore which fails would remove. It gets its own once all are there.
func UnfinishedSubject(prefix, name string) string { return prefix + ".unfinished." + name }

// Unfinished says whether a stream with this configuration is of a restore that has not finished.
func Unfinished(prefix, name string, config json.RawMessage) bool {
	var c struct {
		Subjects []string `json:"subjects"`
	}
	json.Unmarshal(config, &c)
	return slices.Contains(c.Subjects, UnfinishedSubject(prefix, name))
}

// beginTime is how long servers may take to put up the mark.
const beginTime = 30 * time.Second

var (
	errRestoring = errors.New("a backup is being restored")
	errCutOff    = errors.New("a restore was cut off, and nothing is there yet: run it again, or begin with a new folder")
	errAnother   = errors.New("another restore goes on there")
)

// ErrLeft is that a restore could not put everything back, or not remove all that it had brought.
var ErrLeft = errors.New("something of the restore may be left there")

// Restoring is a restore that has begun.
type Restoring struct {
	Again bool // one before was cut off, or could not take its mark away

	js   jetstream.JetStream
	mark string
	here *nats.Subscription
}

// BeginRestoring has all who share the streams of a prefix make none, until End is called.
func BeginRestoring(ctx context.Context, nc *nats.Conn, prefix string) (*Restoring, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	within, cancel := context.WithTimeout(ctx, beginTime)
	defer cancel()
	if _, err := nc.RequestWithContext(within, prefix+restorerSuffix, nil); !errors.Is(err, nats.ErrNoResponders) {
		return nil, cmp.Or(err, errAnother)
	}
	here, err := nc.Subscribe(prefix+restorerSuffix, func(msg *nats.Msg) { msg.Respond(nil) })
	if err != nil {
		return nil, err
	}
	r := &Restoring{js: js, mark: prefix + restoringSuffix, here: here}
	quiet := slog.New(slog.DiscardHandler)
	err = UntilMade(within, quiet, func(ctx context.Context) error {
		_, err := js.Stream(ctx, r.mark)
		r.Again = err == nil
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return nil
		}
		return err
	})
	if err != nil {
		here.Unsubscribe()
		return nil, err
	}
	err = UntilMade(within, quiet, func(ctx context.Context) error { // one that was deleted may be in the way for a moment
		once, cancel := context.WithTimeout(context.WithoutCancel(ctx), MakeTimeout) // who does not hear whether it is there cannot take it away
		defer cancel()
		_, err := js.CreateStream(once, jetstream.StreamConfig{Name: r.mark, Subjects: []string{prefix + ".restoring"}})
		return err
	})
	if err != nil { // it may be there though
		return nil, errors.Join(err, r.End(!r.Again))
	}
	return r, nil
}

// End says whether what is there then may be used. If not, the next restore has to come first.
// Its error is an ErrLeft.
func (r *Restoring) End(usable bool) error {
	defer r.here.Unsubscribe()
	if !usable {
		return nil
	}
	err := r.js.DeleteStream(context.Background(), r.mark) // within the library's 5 s
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("%w: the stream %s, which says that a backup is being restored, could not be deleted: %w", ErrLeft, r.mark, err)
	}
	return nil
}

// markTime is how long is waited to hear of a restore.
const markTime = 500 * time.Millisecond

// restoring says why no stream may be made now: a backup is being restored, or was in part, or
// that is not known.
func (s *Stream) restoring(ctx context.Context) error {
	prefix := s.Name[:strings.LastIndexByte(s.Name, '_')]
	if marked, _, err := s.look(ctx, prefix+restoringSuffix); err != nil || !marked {
		return err
	}
	once, cancel := context.WithTimeout(ctx, markTime)
	defer cancel()
	if _, err := s.Ask(once, NewMessage(prefix+restorerSuffix, nil)); !errors.Is(err, nats.ErrNoResponders) {
		return errRestoring
	}
	journal := prefix + "_journal"
	there, config, err := s.look(ctx, journal)
	if err == nil && (!there || Unfinished(prefix, journal, config)) {
		return errCutOff
	}
	return err
}

// look says whether a stream is there, and how it is made. For who may not ask it is not, and
// for who hears nothing that is an error.
func (s *Stream) look(ctx context.Context, name string) (there bool, config json.RawMessage, err error) {
	ctx, cancel := context.WithTimeout(ctx, markTime)
	defer cancel()
	msg, err := s.Ask(ctx, NewMessage("$JS.API.STREAM.INFO."+name, nil))
	if err != nil {
		if errors.Is(s.nc.LastError(), nats.ErrPermissionViolation) {
			return false, nil, nil
		}
		return false, nil, fmt.Errorf("it cannot be told whether a backup is being restored: %w", err)
	}
	var info struct {
		Config  json.RawMessage `json:"config"`
		Created time.Time       `json:"created"`
	}
	json.Unmarshal(msg.Data, &info)
	return !info.Created.IsZero(), info.Config, nil
}
