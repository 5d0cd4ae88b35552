package request

import (
	"net/http"
	"net/url"
	"path"
	"strings"

	"realtimehub/internal/problem"
)

// ErrNothingHere is what a path is answered that is none.
var ErrNothingHere = &problem.Problem{Status: http.StatusNotFound, Code: "NotFound", Detail: "there is nothing at this path"}

// IsClean says whether the mux takes a path as it is.
func IsClean(u *url.URL) bool {
	escaped := u.EscapedPath()
	clean := path.Clean(escaped)
	return escaped == clean || clean != "/" && escaped == clean+"/"
}

// NoRoute tells a wrong method (405, with Allow) from a path that is not there.
func NoRoute(mux *http.ServeMux, w http.ResponseWriter, r *http.Request) error {
	var allowed []string
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"} {
		probe := *r
		probe.Method = method
		if _, pattern := mux.Handler(&probe); pattern != "/" {
			allowed = append(allowed, method)
		}
	}
	if len(allowed) == 0 {
		return ErrNothingHere
	}
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	return &problem.Problem{Status: http.StatusMethodNotAllowed, Code: "MethodNotAllowed", Detail: "this path takes " + strings.Join(allowed, ", ")}
}
