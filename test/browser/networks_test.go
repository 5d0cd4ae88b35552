package browser

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
)

// hinders is a proxy in front of a hub that holds each answer back until it is whole. It passes
// sockets on where upgrades says so.
func hinders(t *testing.T, hub string, upgrades bool) string {
	t.Helper()
	return proxied(t, hub, upgrades, func(res *http.Response) error {
		body, err := io.ReadAll(res.Body)
		res.Body = io.NopCloser(bytes.NewReader(body))
		return err
	})
}

// cuts is a proxy in front of a hub that ends streams once their first bytes have passed.
func cuts(t *testing.T, hub string) string {
	t.Helper()
	return proxied(t, hub, true, func(res *http.Response) error {
		if !strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
			return nil
		}
		first := make([]byte, 4096)
		n, err := res.Body.Read(first)
		res.Body.Close()
		res.Body = io.NopCloser(bytes.NewReader(first[:n]))
		return err
	})
}

func proxied(t *testing.T, hub string, upgrades bool, change func(*http.Response) error) string {
	t.Helper()
	target, err := url.Parse(hub)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host
		},
		ModifyResponse: func(res *http.Response) error {
			if res.StatusCode == http.StatusSwitchingProtocols {
				return nil
			}
			return change(res)
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }, // its client left
	}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" && !upgrades {
			http.Error(w, "no upgrades here", http.StatusBadRequest)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	return front.URL
}
