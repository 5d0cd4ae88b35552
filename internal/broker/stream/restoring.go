package stream

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// While a backup is restored, hubs make no stream that is missing: it is about to come. A stream
// of the name restoringSuffix says so until all is there, and who restores answers at the subject
// restorerSuffix as long as it lives. A mark without anybody is of a restore that was cut off:
// the journal, which comes last, says whether that had finished.
const (
	restoringSuffix = "_restoring"
	restorerSuffix  = ".restorer"
)

// beginTime is how long servers may take to put up the mark.
const beginTime = 30 * time.Second

var (
	errRestoring = errors.New("a backup is being restored")
	errCutOff    = errors.New("a restore was cut off, and nothing is there yet: run it again, or begin with a new folder")
	errAnother   = errors.New("another restore goes on there")
)

// BeginRestoring has all who share the streams of a prefix make none, until end is called.
// That is told whether what is there then may be used; if not, the next restore has to come first.
func BeginRestoring(ctx context.Context, nc *nats.Conn, prefix string) (end func(usable bool), err error) {
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
	err = UntilMade(within, slog.New(slog.DiscardHandler), func(ctx context.Context) error { // one that was deleted may be in the way for a moment
		_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: prefix + restoringSuffix, Subjects: []string{prefix + ".restoring"}})
		return err
	})
	if err != nil {
		here.Unsubscribe()
		return nil, err
	}
	return func(usable bool) {
		if usable {
			js.DeleteStream(context.WithoutCancel(ctx), prefix+restoringSuffix)
		}
		here.Unsubscribe()
	}, nil
}

// markTime is how long is waited to hear of a restore.
const markTime = 500 * time.Millisecond

// restoring says why no stream may be made now: a backup is being restored, or was in part, or
// that is not known.
func (s *Stream) restoring(ctx context.Context) error {
	prefix := s.Name[:strings.LastIndexByte(s.Name, '_')]
	if marked, err := s.exists(ctx, prefix+restoringSuffix); err != nil || !marked {
		return err
	}
	once, cancel := context.WithTimeout(ctx, markTime)
	defer cancel()
	if _, err := s.Ask(once, NewMessage(prefix+restorerSuffix, nil)); !errors.Is(err, nats.ErrNoResponders) {
		return errRestoring
	}
	if finished, err := s.exists(ctx, prefix+"_journal"); err != nil || finished {
		return err
	}
	return errCutOff
}

// exists says whether a stream is there. It is not for who may not ask, and hears nothing.
func (s *Stream) exists(ctx context.Context, name string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, markTime)
	defer cancel()
	msg, err := s.Ask(ctx, NewMessage("$JS.API.STREAM.INFO."+name, nil))
	if err != nil {
		if errors.Is(s.nc.LastError(), nats.ErrPermissionViolation) {
			return false, nil
		}
		return false, fmt.Errorf("it cannot be told whether a backup is being restored: %w", err)
	}
	var info struct {
		Created time.Time `json:"created"`
	}
	json.Unmarshal(msg.Data, &info)
	return !info.Created.IsZero(), nil
}
