package sse

import "net/http"

// Header sets what an event stream needs to come through: no cache, no proxy
// buffer (nginx reads X-Accel-Buffering), no transformation.
func Header(h http.Header) {
	h["Content-Type"] = []string{"text/event-stream"}
	h["Cache-Control"] = []string{"no-cache, no-store, no-transform"}
	h["X-Accel-Buffering"] = []string{"no"}
}
