package journal

import (
	"context"
	"time"

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
	j.room.told(int64(s.Bytes))
	return s, nil
}

// state asks the leader, or joins another's question that is not yet sent: so what
// was subscribed to before is known to the leader when it answers. Who has just been
// elected may be behind for a moment: stream.ErrStale where the answer stays older than what we
// have seen, or of a life that we do not know yet.
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
