package stream

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// While a backup is restored, hubs make no stream that is missing: it may be about to come.
// A stream of this name says so, for a time.
const (
	restoringSuffix = "_restoring"
	restoringFor    = 10 * time.Minute // a restore that has not ended by then was cut off
)

// beginTime is how long servers may take to put up the mark.
const beginTime = 30 * time.Second

var errRestoring = errors.New("a backup is being restored")

// BeginRestoring has all who share the streams of a prefix make none, until end is called.
func BeginRestoring(ctx context.Context, nc *nats.Conn, prefix string) (end func(), err error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	within, cancel := context.WithTimeout(ctx, beginTime)
	defer cancel()
	js.DeleteStream(within, prefix+restoringSuffix)                                          // of one that was cut off
	err = UntilMade(within, slog.New(slog.DiscardHandler), func(ctx context.Context) error { // one that was deleted may be in the way for a moment
		_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: prefix + restoringSuffix, Subjects: []string{prefix + ".restoring"}})
		return err
	})
	if err != nil {
		return nil, err
	}
	return func() { js.DeleteStream(context.WithoutCancel(ctx), prefix+restoringSuffix) }, nil
}

// markTime is how long is waited to hear of a restore: who is refused hears nothing.
const markTime = 500 * time.Millisecond

// restoring says whether a backup is being restored.
func (s *Stream) restoring(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, markTime)
	defer cancel()
	prefix := s.Name[:strings.LastIndexByte(s.Name, '_')]
	msg, err := s.Ask(ctx, NewMessage("$JS.API.STREAM.INFO."+prefix+restoringSuffix, nil))
	if err != nil {
		return false
	}
	var info struct {
		Created time.Time `json:"created"`
		Now     time.Time `json:"ts"`
	}
	json.Unmarshal(msg.Data, &info)
	return !info.Created.IsZero() && info.Now.Sub(info.Created) < restoringFor
}
