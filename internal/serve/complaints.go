package serve

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"time"

	"realtimehub/internal/count"
)

// Complaint is what net/http's own words are about: no caller hears of them.
type Complaint string

// The complaints there are.
const (
	ComplaintAccept Complaint = "accept" // no connection can be taken
	ComplaintPanic  Complaint = "panic"  // of a handler
	ComplaintTLS    Complaint = "tls"    // a client that does not get so far as to ask
	ComplaintClient Complaint = "client" // one that does not keep to HTTP/2
	ComplaintOther  Complaint = "other"  // what we do wrong with net/http, or do not know
)

// ErrorLog takes what net/http logs, a line each, and counts it. What a client does
// is logged at debug: anybody can cause it. The rest is loud, once a second of each.
type ErrorLog struct {
	logger *slog.Logger
	Count  count.Words[Complaint]

	mu sync.Mutex
	// Guarded by mu.
	told   map[Complaint]time.Time
	untold map[Complaint]int // since
}

func NewErrorLog(logger *slog.Logger) *ErrorLog {
	return &ErrorLog{
		logger: logger,
		Count:  count.NewWords(ComplaintAccept, ComplaintPanic, ComplaintTLS, ComplaintClient, ComplaintOther),
		told:   map[Complaint]time.Time{}, untold: map[Complaint]int{},
	}
}

// complaintOf knows net/http by the words of its server and of its HTTP/2.
func complaintOf(line string) Complaint {
	begins := func(words string) bool { return strings.HasPrefix(line, words) }
	switch {
	case begins("http: Accept error"):
		return ComplaintAccept
	case begins("http: panic serving"), begins("http2: panic serving"):
		return ComplaintPanic
	case begins("http: TLS handshake error"):
		return ComplaintTLS
	case begins("http2:"), begins("timeout waiting for "):
		return ComplaintClient
	}
	return ComplaintOther
}

// Write implements io.Writer.
func (c *ErrorLog) Write(b []byte) (int, error) {
	text := string(bytes.TrimSpace(b))
	kind := complaintOf(text)
	c.Count.Add(kind, 1)
	if kind == ComplaintTLS || kind == ComplaintClient {
		c.logger.Debug("net/http", "kind", string(kind), "err", text)
		return len(b), nil
	}
	c.mu.Lock()
	now := time.Now()
	c.untold[kind]++
	times := c.untold[kind]
	due := now.Sub(c.told[kind]) >= time.Second
	if due {
		c.told[kind], c.untold[kind] = now, 0
	}
	c.mu.Unlock()
	if due {
		first, stack, _ := strings.Cut(text, "\n")
		attrs := []any{"kind", string(kind), "err", first, "times", times}
		if stack != "" {
			attrs = append(attrs, "stack", stack)
		}
		c.logger.Error("net/http", attrs...)
	}
	return len(b), nil
}
