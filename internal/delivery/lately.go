package delivery

import (
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/history"
)

// Lately finds a connection that has ended a moment ago and owed an acknowledgement, which may
// be on its way: a page that is closed sends its last word beside the end of its stream.
func (s *Streams) Lately(id uuid.UUID) *Connection { return s.lately.find(id) }

// lately are connections that have ended.
type lately struct {
	mu sync.Mutex
	// Guarded by mu, which is a leaf.
	list []ended // the oldest first
}

type ended struct {
	conn *Connection // guarded by lately.mu since
	of   history.Epoch
	at   time.Time
}

// Bounds of what is kept of connections that have ended.
const (
	latelyTime = 10 * time.Second
	mostLately = 1000
)

func (l *lately) add(e ended) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, e)
	l.sweepLocked()
}

func (l *lately) find(id uuid.UUID) *Connection {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.findLocked(id).conn
}

// findLocked is the zero value where there is none.
func (l *lately) findLocked(id uuid.UUID) ended {
	l.sweepLocked()
	for _, e := range l.list {
		if e.conn.ID == id {
			return e
		}
	}
	return ended{}
}

// acknowledge is Streams.Acknowledge of a connection that has ended.
func (l *lately) acknowledge(c *Connection, cursor string, duties Duties) (found bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.findLocked(c.ID)
	if e.conn == nil {
		return false, nil
	}
	return true, c.acknowledge(e.of, cursor, duties)
}

// sweepLocked forgets those that ended too long ago, or are too many.
func (l *lately) sweepLocked() {
	now, n := time.Now(), 0
	for n < len(l.list) && (now.Sub(l.list[n].at) > latelyTime || len(l.list)-n > mostLately) {
		n++
	}
	l.list = slices.Delete(l.list, 0, n)
}
