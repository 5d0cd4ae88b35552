package folder

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
)

// logger has what the server says in the hub's log: its notices are details here.
type logger struct {
	log *slog.Logger

	mu   sync.Mutex
	last error // the last fault; guarded by mu

	gaveUp atomic.Bool // a stream has: it takes nothing more until the server is started again
}

// critical is how the server's log begins to tell that a write has failed and a stream takes
// nothing more from then on. Nothing else tells of it where there is one replica.
const critical = "critical write error"

// why is the last fault that the server has told of.
func (l *logger) why() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last == nil {
		return errors.New("it takes too long")
	}
	return l.last
}

func (l *logger) fault(format string, args []any) {
	err := fmt.Errorf(format, args...)
	l.mu.Lock()
	l.last = err
	l.mu.Unlock()
	if strings.Contains(err.Error(), critical) {
		l.gaveUp.Store(true)
	}
	l.log.Error("folder", "err", err)
}

// Noticef implements server.Logger.
func (l *logger) Noticef(format string, args ...any) {
	l.log.Debug("folder", "says", fmt.Sprintf(format, args...))
}

// Warnf implements server.Logger.
func (l *logger) Warnf(format string, args ...any) {
	l.log.Warn("folder", "says", fmt.Sprintf(format, args...))
}

// Errorf implements server.Logger.
func (l *logger) Errorf(format string, args ...any) { l.fault(format, args) }

// Fatalf implements server.Logger; it ends nothing.
func (l *logger) Fatalf(format string, args ...any) { l.fault(format, args) }

// Debugf implements server.Logger.
func (l *logger) Debugf(string, ...any) {}

// Tracef implements server.Logger.
func (l *logger) Tracef(string, ...any) {}
