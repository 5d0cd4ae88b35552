package serve

import (
	"net/http"
	"net/http/pprof" // its init also fills http.DefaultServeMux, which nobody serves
	"strings"
	"time"
)

// ProfilesAt is the path below which [Profiles] answers.
const ProfilesAt = "/debug/pprof/"

// Profiles answers with what Go tells of the process: everything that [net/http/pprof] has.
func Profiles(w http.ResponseWriter, r *http.Request) {
	// The server's own bounds are for requests; these last as long as ?seconds= says.
	rc := http.NewResponseController(w)
	rc.SetReadDeadline(time.Time{})
	rc.SetWriteDeadline(time.Time{})
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	switch name := strings.TrimPrefix(r.URL.Path, ProfilesAt); name {
	case "cmdline":
		pprof.Cmdline(w, r)
	case "profile":
		pprof.Profile(w, r)
	case "symbol":
		pprof.Symbol(w, r)
	case "trace":
		pprof.Trace(w, r)
	default: // a named one, or the list of them
		pprof.Index(w, r)
	}
}
