package journal

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"realtimehub/internal/broker/stream"
)

// ErrFull: the stream is nearly full, and one key would take too much of what is left. Other
// keys may have room, and this one will once the largest were cut.
var ErrFull = errors.New("the store has too little room left for more of this tenant's events")

// Refused says that an error is the broker's word that it has kept nothing.
func Refused(err error) bool {
	_, refused := errors.AsType[*stream.Refusal](err)
	return (refused || errors.Is(err, ErrFull)) && !errors.Is(err, stream.ErrUnconfirmed)
}

// space is what the stream has left. However fast one key is filled, and whether or not
// anybody keeps the bounds, something is left for the others, so that the broker never
// has to drop the oldest of everybody.
type space struct {
	bounds int64 // static: of the stream; 0: it has none

	mu sync.Mutex
	// Guarded by mu.
	guarded bool
	left    int64            // when the leader last told
	taken   int64            // since then
	of      map[string]int64 // taken, by key
	said    time.Time        // when a refusal was last logged
}

// spacePart: between two answers of the leader, a key may take at most one part in spacePart of
// what is left.
const spacePart = 4

// guard has the space guarded from now on.
func (s *space) guard() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.guarded = true
}

// told is how many bytes the stream has.
func (s *space) told(bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left, s.taken = s.bounds-bytes, 0
	clear(s.of)
}

// take takes the bytes of all keys, or nothing. again says that it may succeed after the leader
// was asked again.
func (s *space) take(bytes map[string]int64) (taken, again bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.guarded || s.bounds == 0 {
		return true, false
	}
	var all int64
	for _, n := range bytes {
		all += n
	}
	for key, n := range bytes {
		if s.of[key]+n > (s.left-s.taken-all)/spacePart {
			return false, s.left > s.bounds/16 // else nobody makes space: what is left is for the others
		}
	}
	for key, n := range bytes {
		s.of[key] += n
	}
	s.taken += all
	return true, false
}

// loud says whether a refusal is to be logged, which is once a minute.
func (s *space) loud(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	loud := now.Sub(s.said) > alarmEvery
	if loud {
		s.said = now
	}
	return loud
}

// takeSpace takes the space that messages need.
func (j *Journal) takeSpace(ctx context.Context, messages []*nats.Msg, of []*Item) error {
	bytes := make(map[string]int64, 1)
	for i, msg := range messages {
		bytes[of[i].Key] += int64(msg.Size())
	}
	for try := 0; ; try++ {
		taken, again := j.space.take(bytes)
		if taken {
			return nil
		}
		if !again || try == 2 {
			if j.space.loud(time.Now()) {
				j.cfg.Logger.Warn("publishes of a tenant that takes too much are refused: the store is nearly full")
			}
			return ErrFull
		}
		if _, err := j.state(ctx); err != nil {
			return stream.ErrUnconfirmed
		}
	}
}
