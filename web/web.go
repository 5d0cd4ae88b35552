package web

import (
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"log/slog"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"

	"realtimehub/internal/lobby"
	"realtimehub/internal/problem"
)

// Files are all that is served, by name.
//
//go:embed *.css *.html *.js *.json *.svg *.ts *.yaml
var Files embed.FS

// mediaTypes of the files; Go would ask the machine, which may know nothing, or call a .ts
// film.
var mediaTypes = map[string]string{
	".css":  "text/css; charset=utf-8",
	".html": "text/html; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".json": "application/json",
	".svg":  "image/svg+xml",
	".ts":   "text/plain; charset=utf-8",
	".yaml": "application/yaml",
}

// fileTime is how long a client may take to read a file.
const fileTime = 30 * time.Second

// Page serves one of the files: all answers are written from one copy, and in one
// piece, so that who does not read waits without a buffer of its own.
func Page(name string, logger *slog.Logger) http.HandlerFunc {
	body, err := Files.ReadFile(name)
	if err != nil {
		panic(err) // it was built in
	}
	kind := mediaTypes[path.Ext(name)]
	hash := sha256.Sum256(body)
	tag := `"` + base64.RawURLEncoding.EncodeToString(hash[:12]) + `"`
	return func(w http.ResponseWriter, r *http.Request) {
		over, err := lobby.Seat(w, r)
		if err != nil {
			if r.ProtoMajor > 1 {
				panic(http.ErrAbortHandler) // an answer could wait as the file would
			}
			problem.Write(w, r, logger, &problem.Problem{Status: http.StatusTooManyRequests, Code: "TooManyConnections", Detail: err.Error()})
			return
		}
		defer over()
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-cache")
		h.Set("ETag", tag)
		if strings.Contains(r.Header.Get("If-None-Match"), tag) {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		h.Set("Content-Type", kind)
		h.Set("Content-Length", strconv.Itoa(len(body)))
		if r.Method == http.MethodHead {
			return
		}
		rc := http.NewResponseController(w)
		rc.SetWriteDeadline(time.Now().Add(fileTime))
		if _, err := w.Write(body); err == nil && rc.Flush() == nil {
			rc.SetWriteDeadline(time.Time{}) // it is the connection's
		}
	}
}
