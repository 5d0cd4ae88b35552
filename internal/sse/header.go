package sse

import (
	"net/http"
	"net/url"
	"slices"
)

// Header sets what an event stream needs to come through: no cache, no proxy
// buffer (nginx reads X-Accel-Buffering), no transformation.
func Header(h http.Header) {
	h["Content-Type"] = []string{"text/event-stream"}
	h["Cache-Control"] = []string{"no-cache, no-store, no-transform"}
	h["X-Accel-Buffering"] = []string{"no"}
}

// CursorOf is where a client resumes. A polyfill of EventSource that sends no header of
// its own appends the id to the address it was given, which may say cursor already: so
// it wins over that, and of several the last one is the latest.
func CursorOf(header http.Header, query url.Values) string {
	if id := header.Get("Last-Event-ID"); id != "" {
		return id
	}
	for _, name := range []string{"lastEventId", "lastEventID", "last_event_id", "Last-Event-ID"} {
		for _, id := range slices.Backward(query[name]) {
			if id != "" {
				return id
			}
		}
	}
	return query.Get("cursor")
}
