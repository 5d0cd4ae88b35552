package serve

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"time"

	"realtimehub/internal/count"
)

// Complaint is a kind of what net/http logs by itself. No caller hears of it.
type Complaint string

// The complaints there are.
const (
	complaintAccept Complaint = "accept" // no connection can be taken
	complaintPanic  Complaint = "panic"  // of a handler
	complaintTLS    Complaint = "tls"    // a client that does not get so far as to ask
	complaintClient Complaint = "client" // one that does not keep to HTTP/2
	complaintOther  Complaint = "other"  // what we do wrong with net/http, or do not know
)

// ErrorLog takes the lines that net/http logs, and counts them by kind. What a client causes
// is logged at level debug, since anybody can cause it. Each other kind is logged as an error,
// once a second.
type ErrorLog struct {
	logger *slog.Logger
	count  count.Words[Complaint]

	mu sync.Mutex
	// Guarded by mu.
	told   map[Complaint]time.Time
	untold map[Complaint]int // since
}

// NewErrorLog is for the log of an http.Server.
func NewErrorLog(logger *slog.Logger) *ErrorLog {
	return &ErrorLog{
		logger: logger,
		count:  count.NewWords(complaintAccept, complaintPanic, complaintTLS, complaintClient, complaintOther),
		told:   map[Complaint]time.Time{}, untold: map[Complaint]int{},
	}
}

// Counts is how many complaints there were of each kind.
func (e *ErrorLog) Counts() map[Complaint]int64 { return e.count.Now() }

// complaintOf tells the kind of a line by how net/http words it.
func complaintOf(line string) Complaint {
	begins := func(words string) bool { return strings.HasPrefix(line, words) }
	switch {
	case begins("http: Accept error"):
		return complaintAccept
	case begins("http: panic serving"), begins("http2: panic serving"):
		return complaintPanic
	case begins("http: TLS handshake error"):
		return complaintTLS
	case begins("http2:"), begins("timeout waiting for "):
		return complaintClient
	}
	return complaintOther
}

// Write implements io.Writer.
func (e *ErrorLog) Write(b []byte) (int, error) {
	text := string(bytes.TrimSpace(b))
	kind := complaintOf(text)
	e.count.Add(kind, 1)
	if kind == complaintTLS || kind == complaintClient {
		e.logger.Debug("the HTTP server reported an error", "kind", string(kind), "err", text)
		return len(b), nil
	}
	e.mu.Lock()
	now := time.Now()
	e.untold[kind]++
	times := e.untold[kind]
	due := now.Sub(e.told[kind]) >= time.Second
	if due {
		e.told[kind], e.untold[kind] = now, 0
	}
	e.mu.Unlock()
	if due {
		first, stack, _ := strings.Cut(text, "\n")
		attrs := []any{"kind", string(kind), "err", first, "times", times}
		if stack != "" {
			attrs = append(attrs, "stack", stack)
		}
		e.logger.Error("the HTTP server reported an error", attrs...)
	}
	return len(b), nil
}
