package stream

import (
	"sync/atomic"
	"time"
)

// Uptime is a time that no clock that is set changes. What has never been was long before.
func Uptime() time.Duration { return time.Since(started) }

// started is before the year 2000, with which a synctest bubble begins.
var started = time.Now().Add(-40 * 365 * 24 * time.Hour)

// Latest is when something last happened, or was begun that has happened since.
type Latest struct{ at atomic.Int64 }

// Get is when that was; 0: never.
func (l *Latest) Get() time.Duration { return time.Duration(l.at.Load()) }

// Set notes a time; an earlier one than is known changes nothing.
func (l *Latest) Set(at time.Duration) {
	for {
		known := l.at.Load()
		if int64(at) <= known || l.at.CompareAndSwap(known, int64(at)) {
			return
		}
	}
}
