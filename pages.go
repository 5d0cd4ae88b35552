package main

import (
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/rs/cors"
)

// webPages decides which pages may call. A browser hides from all others what they are
// answered, and tells them nothing: the log does, who runs the hub.
type webPages struct {
	// Static.
	auth     *Auth
	loopback bool // so that in open mode no page of another machine gets in
	logger   *slog.Logger

	mu   sync.Mutex
	told map[string]bool // origins that the log has named; guarded by mu
}

// anyPages are files that any page may import: they are the same for everybody.
var anyPages = map[string]bool{"/realtime.js": true, "/realtime.d.ts": true}

// shared lets pages of the configured origins call: with the credentials that a
// browser adds by itself only those named, never all. They may send any header, as
// tracing adds its own: the hub reads only what it knows.
func (p *webPages) shared(handler http.Handler) http.Handler {
	origins, serve := p.auth.origins, handler
	options := cors.Options{
		AllowOriginFunc:  origins.Allows,
		AllowedMethods:   []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"},
		AllowedHeaders:   []string{"*"},
		ExposedHeaders:   []string{"Retry-After", "WWW-Authenticate"},
		AllowCredentials: true,
		MaxAge:           600,
	}
	if origins.all {
		options.AllowOriginFunc, options.AllowedOrigins, options.AllowCredentials = nil, []string{"*"}, false
	}
	if !origins.none() {
		serve = cors.New(options).Handler(handler)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if anyPages[r.URL.Path] {
			w.Header().Set("Access-Control-Allow-Origin", "*")
			w.Header().Set("Cross-Origin-Resource-Policy", "cross-origin")
			handler.ServeHTTP(w, r)
			return
		}
		if origin := r.Header.Get("Origin"); origin != "" && !isOwn(r, origin) && !origins.Allows(origin) {
			p.auth.Unlisted()
			p.tell(origin, "if it is yours, list it in REALTIME_CORS_ORIGINS")
		}
		serve.ServeHTTP(w, r)
	})
}

// isOwn says whether a request's origin is the hub's own, as far as can be known
// behind a proxy that has changed the Host.
func isOwn(r *http.Request, origin string) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" {
		return site == "same-origin"
	}
	u, err := url.Parse(origin)
	return err == nil && strings.EqualFold(u.Host, r.Host)
}

// refuses says why a request is not let in, in open mode on loopback: its Host is not
// this machine's (DNS rebinding), or a page of another machine sends it.
func (p *webPages) refuses(r *http.Request) error {
	if !p.loopback || !p.auth.Open() {
		return nil
	}
	if !isLoopback(hostOf(r.Host)) {
		return errForeignHost
	}
	origin := r.Header.Get("Origin")
	switch r.Header.Get("Sec-Fetch-Site") {
	case "same-origin", "same-site", "none":
		return nil
	case "": // an older browser, or none
		if origin == "" {
			return nil
		}
	}
	if isOnLoopback(origin) || anyPages[r.URL.Path] {
		return nil
	}
	if origin != "" {
		p.tell(origin, "without credentials only pages of this machine may call: set REALTIME_JWT_SECRET or another key, and REALTIME_CORS_ORIGINS")
	}
	return errForeignSite
}

// Bounds of what strangers can write into the log.
const (
	mostTold    = 100 // origins
	longestTold = 256 // bytes
)

// tell names a refused origin in the log, once.
func (p *webPages) tell(origin, remedy string) {
	origin = origin[:min(len(origin), longestTold)]
	p.mu.Lock()
	known := p.told[origin] || len(p.told) >= mostTold
	if !known {
		p.told[origin] = true
	}
	p.mu.Unlock()
	if !known {
		p.logger.Warn("a page's origin is refused", "origin", origin, "remedy", remedy)
	}
}
