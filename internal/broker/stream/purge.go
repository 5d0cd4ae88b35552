package stream

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// betterWord is how long the leader is waited for once another server has said that the
// cluster has no leader: each says so of the servers' own group at once, while the
// stream's leader has yet to agree with its followers.
const betterWord = 300 * time.Millisecond

// PurgeNothing has those who keep the stream agree on a purge of what is not there.
func (s *Stream) PurgeNothing(ctx context.Context, subject string) error {
	_, err := s.purge(ctx, purge{Filter: subject})
	return err
}

// Purge removes the messages of a subject that are before a place, which is not 0, and returns
// how many.
func (s *Stream) Purge(ctx context.Context, subject string, before uint64) (messages int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, AppendTimeout)
	defer cancel()
	return s.purge(ctx, purge{Filter: subject, Before: before})
}

// purge is what the broker is asked, in its words.
type purge struct {
	Filter string `json:"filter"`
	Before uint64 `json:"seq,omitempty"`
}

func (s *Stream) purge(ctx context.Context, ask purge) (messages int64, err error) {
	body, err := json.Marshal(ask)
	if err != nil {
		return 0, err
	}
	inbox, answers, forget := s.expect(mostReplicas)
	defer forget()
	if err := s.nc.PublishRequest("$JS.API.STREAM.PURGE."+s.Name, inbox, body); err != nil {
		return 0, err
	}
	var waited <-chan time.Time // for the leader
	for {
		select {
		case msg := <-answers:
			if messages, err = purgedOf(msg); !isUnavailable(err) {
				return messages, err
			}
			if waited == nil {
				waited = time.After(betterWord)
			}
		case <-waited:
			return 0, err
		case <-ctx.Done():
			return 0, cmp.Or(err, ctx.Err())
		case <-s.ended:
			return 0, nats.ErrConnectionClosed
		}
	}
}

func purgedOf(msg *nats.Msg) (messages int64, err error) {
	if len(msg.Data) == 0 && msg.Header.Get("Status") == "503" {
		return 0, nats.ErrNoResponders
	}
	var answer struct {
		Purged int64               `json:"purged"`
		Error  *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(msg.Data, &answer); err != nil {
		return 0, err
	}
	if answer.Error != nil {
		return 0, answer.Error
	}
	return answer.Purged, nil
}

// mostReplicas is how many servers may answer what only one is asked.
const mostReplicas = 5

func isUnavailable(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && api.ErrorCode == codeUnavailable
}
