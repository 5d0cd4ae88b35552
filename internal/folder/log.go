package folder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// logger has in the hub's log what its user has to know of what the server says, in words of
// the hub. All the rest is said at level debug.
type logger struct {
	log   *slog.Logger
	begun time.Time

	mu   sync.Mutex
	last error                // the last fault; guarded by mu
	told map[string]time.Time // when a line was last told; guarded by mu

	over     atomic.Bool // the server cannot go on
	gaveUp   atomic.Bool // a stream has: it takes nothing more until the server is started again
	unsynced atomic.Bool // it has for a reason by which what was acknowledged before may be lost
}

func newLogger(log *slog.Logger) *logger {
	return &logger{log: log, begun: time.Now(), told: map[string]time.Time{}}
}

// critical is in what the server's log says of a write that has failed: a stream takes
// nothing more from then on. Nothing else tells of it where there is one replica.
const critical = "critical write error"

// loses says whether a write has failed in a way by which others before it may be lost too: whatever
// it was but a lack of room or of descriptors. A lack of room that a sync tells of is of those before.
func loses(fault string) bool {
	if !strings.Contains(fault, critical) {
		return false
	}
	for _, lack := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EMFILE, syscall.ENFILE} {
		if strings.Contains(fault, lack.Error()) {
			return strings.Contains(fault, critical+": sync ")
		}
	}
	return true
}

// tellEvery is how often a line is told that comes again and again.
const tellEvery = time.Minute

// unreachable is said of a hub that is away, or does not run yet: of that nobody is warned
// while all of them may be starting, for togetherTime.
const (
	unreachable  = "another hub cannot be reached"
	togetherTime = 30 * time.Second
)

// line is what the hub says in place of the server.
type line struct {
	of    *regexp.Regexp // the server's; its group err is told with the hub's
	level slog.Level
	says  string
}

// lines are looked through in this order. The server's are of nats-server 2.15.
var lines = []line{
	// Of hubs that call each other.
	{regexp.MustCompile(`TLS route handshake error: (EOF|.*connection reset|.*closed network)`), slog.LevelDebug, ""}, // who looks whether the port is open
	{regexp.MustCompile(`TLS route handshake error: (?P<err>.*certificate.*)`), slog.LevelWarn, "no TLS with another hub: check REALTIME_PEERS_CERT and REALTIME_PEERS_CA there and here"},
	{regexp.MustCompile(`TLS route handshake error: (?P<err>.*)`), slog.LevelWarn, "no TLS with another hub: either all have REALTIME_PEERS_CERT, or none"},
	{regexp.MustCompile(`read error: (?P<err>remote error: tls: .*)`), slog.LevelWarn, "another hub refuses this hub's REALTIME_PEERS_CERT"},
	{regexp.MustCompile(`Error trying to connect to route \(attempt \d+\): (?P<err>.*)`), slog.LevelWarn, unreachable},
	{regexp.MustCompile(`(?i)Route Error 'Authorization Violation'`), slog.LevelError, "another hub refuses this one: REALTIME_PEERS_SECRET must be the same on all hubs"},
	{regexp.MustCompile(`rid:\d+ - (?P<err>authentication error)`), slog.LevelWarn, "a hub was refused: it has another REALTIME_PEERS_SECRET, or has REALTIME_PEERS_CERT and this one has none"},
	{regexp.MustCompile(`(?P<err>cluster name .* does not match .*)`), slog.LevelError, "another hub has another REALTIME_NATS_PREFIX: it must be the same on all hubs"},
	{regexp.MustCompile(`Remote server has a duplicate name: "(?P<err>.*)"`), slog.LevelError, "two hubs have the same folder: no folder may be a copy of another's"},
	{regexp.MustCompile(`(?i)read error: |route error |parser error|rid:\d+ - error flushing`), slog.LevelDebug, ""},
	{regexp.MustCompile(`Error listening on router port: \d+ - (?P<err>.*)`), slog.LevelError, "REALTIME_PEERS_ADDR cannot be listened at"},
	// Of files.
	{regexp.MustCompile(`(?i)(critical write error|failed to store a msg on stream '[^']*'): (?P<err>.*)`), slog.LevelError, "the folder cannot be written"},
	{regexp.MustCompile(`(?i)(?P<err>.*(corrupt|checksum|checkMsgs|permission denied|could not persist|resources? exceeded).*)`), slog.LevelWarn, "the folder has a fault"},
}

// translate has the hub's words for the server's, and what of those is to be told with them.
func translate(level slog.Level, text string) (_ slog.Level, says, err string) {
	for _, line := range lines {
		if found := line.of.FindStringSubmatch(text); found != nil {
			if n := line.of.SubexpIndex("err"); n > 0 {
				err = found[n]
			}
			return line.level, line.says, err
		}
	}
	return level, "the folder has a fault", text
}

// say says what the server says.
func (l *logger) say(level slog.Level, text string) {
	level, says, err := translate(level, text)
	if level < slog.LevelWarn || !l.due(says+err) {
		l.log.Debug("folder", "says", text)
		return
	}
	if says == unreachable && time.Since(l.begun) < togetherTime {
		level = slog.LevelInfo
	}
	if err == "" {
		l.log.Log(context.Background(), level, says)
		return
	}
	l.log.Log(context.Background(), level, says, "err", err)
}

// due says whether a line is to be told, or was just now.
func (l *logger) due(line string) bool {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for line, at := range l.told {
		if now.Sub(at) >= tellEvery {
			delete(l.told, line)
		}
	}
	_, recent := l.told[line]
	if !recent {
		l.told[line] = now
	}
	return !recent
}

// why is the last fault that the server has told of.
func (l *logger) why() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last == nil {
		return errors.New("it takes too long")
	}
	return l.last
}

func (l *logger) fault(text string) {
	_, says, err := translate(slog.LevelError, text)
	l.mu.Lock()
	l.last = fmt.Errorf("%s: %s", says, err)
	l.mu.Unlock()
	lower := strings.ToLower(text)
	if loses(lower) {
		l.unsynced.Store(true)
	}
	if strings.Contains(lower, critical) {
		l.gaveUp.Store(true)
	}
	l.say(slog.LevelError, text)
}

// Noticef implements server.Logger.
func (l *logger) Noticef(format string, args ...any) {
	l.log.Debug("folder", "says", fmt.Sprintf(format, args...))
}

// Warnf implements server.Logger. What servers warn of is theirs: who leads, who is behind,
// what takes long. Whether the hub can serve is said by its readiness.
func (l *logger) Warnf(format string, args ...any) {
	l.say(slog.LevelDebug, fmt.Sprintf(format, args...))
}

// Errorf implements server.Logger.
func (l *logger) Errorf(format string, args ...any) { l.fault(fmt.Sprintf(format, args...)) }

// Fatalf implements server.Logger; it ends nothing.
func (l *logger) Fatalf(format string, args ...any) {
	l.fault(fmt.Sprintf(format, args...))
	l.over.Store(true)
}

// Debugf implements server.Logger.
func (l *logger) Debugf(string, ...any) {}

// Tracef implements server.Logger.
func (l *logger) Tracef(string, ...any) {}
