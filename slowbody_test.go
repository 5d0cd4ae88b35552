package main

import (
	"encoding/json"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/serve"
)

// A client whose body is too slow is told so, and not that its connection ended.
func TestASlowBodyIsToldOfItsTime(t *testing.T) {
	eachTransport(t, func(t *testing.T, secure, http2 bool) {
		is := is.New(t)
		h := newSilentHub(t, secure, http2)
		defer h.end()
		body, rest := io.Pipe()
		defer body.Close()
		go io.WriteString(rest, `{"tenantId":`)
		begun := time.Now()
		res, err := h.client.Post(h.url+"/v1/events", "application/json", body)
		is.NoErr(err)
		defer res.Body.Close()
		is.Equal(time.Since(begun), serve.RequestTimeout)
		is.Equal(res.StatusCode, http.StatusBadRequest)
		var answer struct{ Code, Detail string }
		is.NoErr(json.NewDecoder(res.Body).Decode(&answer))
		is.Equal(answer.Code, "BodyUnreadable")
		is.Equal(answer.Detail, "the body did not come whole within 30 s")
	})
}
