package journal

import (
	"sync/atomic"
	"time"
)

// uptime is a time that no clock that is set changes. What has never been was long before.
func uptime() time.Duration { return time.Since(started) }

var started = time.Now().Add(-time.Hour)

// latest is when something last happened, or was begun that has happened since.
type latest struct{ at atomic.Int64 }

func (l *latest) get() time.Duration { return time.Duration(l.at.Load()) }

func (l *latest) set(at time.Duration) {
	for {
		known := l.at.Load()
		if int64(at) <= known || l.at.CompareAndSwap(known, int64(at)) {
			return
		}
	}
}
