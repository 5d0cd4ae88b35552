package journal

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/broker/stream"
)

func (j *Journal) askState() (stream.State, error) {
	s, err := j.stream.Info(context.Background())
	if err != nil {
		return stream.State{}, err
	}
	j.answered.Set(stream.Uptime())
	j.bytes.Store(int64(s.Bytes))
	j.first.Store(s.First)
	j.space.told(int64(s.Bytes))
	return s, nil
}

// state asks the leader, or joins a question that is not sent yet, so that the leader answers
// after whatever was subscribed before the call. A leader that was just elected may be behind
// for a moment. The error is stream.ErrStale if the answer stays older than what was seen here,
// or belongs to a life that is not known here yet.
func (j *Journal) state(ctx context.Context) (stream.State, error) {
	for begun := time.Now(); ; {
		l := j.life.Load()
		seen := l.highest.Load()
		s, err := j.heads.Join(ctx)
		if err != nil || s.Last >= seen && s.Life() == l.created {
			return s, err
		}
		if time.Since(begun) > staleTime || !stream.Pause(ctx) {
			return stream.State{}, stream.ErrStale
		}
	}
}

// Stats are of the whole journal, as its leader tells.
func (j *Journal) Stats(ctx context.Context) (keys int, messages, bytes uint64, err error) {
	s, err := j.state(ctx)
	return s.Keys, s.Messages, s.Bytes, err
}

// Prove has the broker keep a message that says nothing: then most of its servers are in
// reach. Any other answer may be of one that does not know yet that it leads no more.
func (j *Journal) Prove(ctx context.Context) error {
	_, err := j.prove(ctx)
	return err
}

// prove is Prove; it returns the message's place, which is the last of all.
func (j *Journal) prove(ctx context.Context) (place uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, stream.AskTimeout)
	defer cancel()
	place, _, err = j.stream.Request(ctx, stream.NewMessage(j.cutSubject(stream.ProofName), nil, jetstream.MsgTTLHeader, "60"))
	return place, err
}
