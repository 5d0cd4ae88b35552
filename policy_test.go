package main

import (
	"strings"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/serve"
)

// A page of the hub loads nothing from elsewhere, nor can what is injected into it move
// its links or send its forms to another host.
func TestPagesSendNothingElsewhere(t *testing.T) {
	h := newTestHub(t)
	paths := []string{serve.ProfilesAt}
	for pattern := range h.API.openRoutes() {
		if path := strings.TrimSuffix(strings.TrimPrefix(pattern, "GET "), "{$}"); path != "/healthz" && path != "/readyz" {
			paths = append(paths, path)
		}
	}
	for _, path := range paths {
		t.Run(path, func(t *testing.T) {
			is := is.New(t)
			w := ask(h.Handler, "GET", path, "")
			is.Equal(w.Code, 200)
			policy := strings.Split(w.Header().Get("Content-Security-Policy"), "; ")
			for _, need := range []string{"base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"} {
				found := false
				for _, directive := range policy {
					found = found || directive == need
				}
				is.True(found) // of each directive
			}
			is.True(strings.HasPrefix(policy[0], "default-src "))
		})
	}
}
