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

// room is what the stream has left. However fast one key is filled, and whether or not
// anybody keeps the bounds, something is left for the others, so that the broker never
// has to drop the oldest of everybody.
type room struct {
	bounds int64 // static: of the stream; 0: it has none

	mu sync.Mutex
	// Guarded by mu.
	guarded bool
	left    int64            // when the leader last told
	taken   int64            // since then
	of      map[string]int64 // taken, by key
	said    time.Time        // when a refusal was last logged
}

// roomPart: between two answers of the leader, a key may take at most one part in roomPart of
// what is left.
const roomPart = 4

// guard has the room guarded from now on.
func (r *room) guard() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.guarded = true
}

// told is how many bytes the stream has.
func (r *room) told(bytes int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.left, r.taken = r.bounds-bytes, 0
	clear(r.of)
}

// take takes the bytes of all keys, or nothing. again says that it may succeed after the leader
// was asked again.
func (r *room) take(bytes map[string]int64) (taken, again bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.guarded || r.bounds == 0 {
		return true, false
	}
	var all int64
	for _, n := range bytes {
		all += n
	}
	for key, n := range bytes {
		if r.of[key]+n > (r.left-r.taken-all)/roomPart {
			return false, r.left > r.bounds/16 // else nobody makes room: what is left is for the others
		}
	}
	for key, n := range bytes {
		r.of[key] += n
	}
	r.taken += all
	return true, false
}

// loud says whether a refusal is to be logged, which is once a minute.
func (r *room) loud(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	loud := now.Sub(r.said) > alarmEvery
	if loud {
		r.said = now
	}
	return loud
}

// takeRoom takes the room that messages need.
func (j *Journal) takeRoom(ctx context.Context, messages []*nats.Msg, of []*Item) error {
	bytes := make(map[string]int64, 1)
	for i, msg := range messages {
		bytes[of[i].Key] += int64(msg.Size())
	}
	for try := 0; ; try++ {
		taken, again := j.room.take(bytes)
		if taken {
			return nil
		}
		if !again || try == 2 {
			if j.room.loud(time.Now()) {
				j.cfg.Logger.Warn("publishes of a tenant that takes too much are refused: the store is nearly full")
			}
			return ErrFull
		}
		if _, err := j.state(ctx); err != nil {
			return stream.ErrUnconfirmed
		}
	}
}
