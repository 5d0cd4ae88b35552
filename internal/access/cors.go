package access

import (
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/rs/cors"
)

// Pages decides which web pages may call. A browser hides the answer from any other page
// and does not tell it why, so the hub tells its operator in the log.
type Pages struct {
	// Static.
	auth     *Auth
	loopback bool
	logger   *slog.Logger

	mu sync.Mutex
	// Guarded by mu.
	told map[string]bool // origins that the log has named
}

// NewPages decides by the origins that auth has. On loopback no page of another machine
// gets in while no credential is asked for.
func NewPages(auth *Auth, loopback bool, logger *slog.Logger) *Pages {
	return &Pages{auth: auth, loopback: loopback, logger: logger, told: map[string]bool{}}
}

// anyPages are the files that any page may import, as they are the same for everybody.
var anyPages = map[string]bool{"/realtime.js": true, "/realtime.d.ts": true}

// Shared lets pages of the configured origins call. The credentials that a browser adds by
// itself count only for origins that are listed by name, never for all. Any header is
// allowed, since tracing adds its own and the hub reads only those that it knows.
func (p *Pages) Shared(handler http.Handler) http.Handler {
	origins, serve := p.auth.origins, handler
	options := cors.Options{
		AllowOriginFunc:  origins.allows,
		AllowedMethods:   []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"},
		AllowedHeaders:   []string{"*"},
		ExposedHeaders:   []string{"Retry-After", "WWW-Authenticate", "Cursor"},
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
		if origin := r.Header.Get("Origin"); origin != "" && !isOwn(r, origin) && !origins.allows(origin) {
			p.auth.unlisted()
			p.tell(origin, "if it is yours, list it in REALTIME_CORS_ORIGINS")
		}
		serve.ServeHTTP(w, r)
	})
}

// isOwn says whether a request's origin is the hub's own, as far as the hub can know behind
// a proxy that has changed the Host.
func isOwn(r *http.Request, origin string) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" {
		return site == "same-origin"
	}
	u, err := url.Parse(origin)
	return err == nil && strings.EqualFold(u.Host, r.Host)
}

// Refuses says why a request is not let in, in open mode on loopback: its Host is not
// this machine's (DNS rebinding), or a page of another machine sends it.
func (p *Pages) Refuses(r *http.Request) error {
	if !p.loopback || !p.auth.Open() {
		return nil
	}
	if !IsLoopback(hostOf(r.Host)) {
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
	if IsOnLoopback(origin) || anyPages[r.URL.Path] {
		return nil
	}
	if origin != "" {
		p.tell(origin, "without credentials only pages of this machine may call: set REALTIME_JWT_SECRET or another key, and REALTIME_CORS_ORIGINS")
	}
	return errForeignSite
}

// RefusesSocket says why a page may open no WebSocket: a browser asks nobody before it does, and
// hides nothing from the page afterwards (RFC 6455, section 10.2). A client that is no page sends
// no Origin.
func (p *Pages) RefusesSocket(r *http.Request) error {
	origin := r.Header.Get("Origin")
	if origin == "" || isOwn(r, origin) || p.auth.origins.allows(origin) || p.auth.Open() && IsOnLoopback(origin) {
		return nil
	}
	return errSocketSite
}

// Bounds of what strangers can write into the log.
const (
	mostTold    = 100 // origins
	longestTold = 256 // bytes
)

// tell names a refused origin in the log, once.
func (p *Pages) tell(origin, remedy string) {
	origin = origin[:min(len(origin), longestTold)]
	p.mu.Lock()
	known := p.told[origin] || len(p.told) >= mostTold
	if !known {
		p.told[origin] = true
	}
	p.mu.Unlock()
	if !known {
		p.logger.Warn("a page was refused because of its origin", "origin", origin, "remedy", remedy)
	}
}
