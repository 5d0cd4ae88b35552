package main

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"
)

// A time that one answer has to be read in does not end the next one on its connection.
func TestEachAnswerHasATimeOfItsOwn(t *testing.T) {
	eachTransport(t, func(t *testing.T, secure, http2 bool) {
		is := is.New(t)
		h := newSilentHub(t, secure, http2)
		defer h.end()
		fillHistory(t, h.Hub, 3, 100)
		for range 3 { // a connection that is idle is kept for 2 min
			for _, call := range []struct{ method, path, body string }{
				{"GET", "/v1/tenants/acme/events", ""},
				{"POST", "/v1/events", `{"tenantId":"acme","type":"a.b","payload":1,"target":{"kind":"tenant"}}`},
			} {
				req, err := http.NewRequestWithContext(t.Context(), call.method, h.url+call.path, strings.NewReader(call.body))
				is.NoErr(err)
				req.GetBody = nil // it is not sent again by itself
				if call.body != "" {
					req.Header.Set("Content-Type", "application/json")
				}
				res, err := h.client.Do(req)
				is.NoErr(err)
				_, err = io.Copy(io.Discard, res.Body)
				is.NoErr(err)
				res.Body.Close()
				time.Sleep(100 * time.Second)
				synctest.Wait()
			}
		}
	})
}
