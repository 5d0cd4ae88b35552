package journal

import (
	"context"
	"time"
)

func (j *Journal) askState() (state, error) {
	s, err := j.stream.info(context.Background())
	if err != nil {
		return state{}, err
	}
	j.answered.set(uptime())
	j.bytes.Store(int64(s.bytes))
	j.first.Store(s.first)
	j.room.told(int64(s.bytes))
	return s, nil
}

// state asks the leader, or joins another's question that is not yet sent: so what
// was subscribed to before is known to the leader when it answers. Who has just been
// elected may be behind for a moment: errStale where the answer stays older than what we
// have seen, or of a life that we do not know yet.
func (j *Journal) state(ctx context.Context) (state, error) {
	for begun := time.Now(); ; {
		l := j.life.Load()
		seen := l.highest.Load()
		s, err := j.heads.join(ctx)
		if err != nil || s.last >= seen && s.life() == l.created {
			return s, err
		}
		if time.Since(begun) > staleTime || !pause(ctx) {
			return state{}, errStale
		}
	}
}

// Stats are of the whole journal, as its leader tells.
func (j *Journal) Stats(ctx context.Context) (keys int, messages, bytes uint64, err error) {
	s, err := j.state(ctx)
	return s.keys, s.messages, s.bytes, err
}
