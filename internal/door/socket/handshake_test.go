package socket

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/problem"
)

// asking is a request for an upgrade that is right; headers are names and values that differ.
func asking(headers ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/v1/socket", http.NoBody)
	for i, set := 0, append([]string{
		"Connection", "keep-alive, Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==",
	}, headers...); i < len(set); i += 2 {
		if set[i+1] == "" {
			r.Header.Del(set[i])
		} else {
			r.Header.Set(set[i], set[i+1])
		}
	}
	return r
}

// The answer is that of the example in RFC 6455, section 1.3.
func TestHandshake(t *testing.T) {
	is := is.New(t)
	r := asking()
	is.NoErr(Check(r, "realtime.v1"))
	got := string(Head(r, "realtime.v1"))
	is.True(strings.HasPrefix(got, "HTTP/1.1 101 Switching Protocols\r\n"))
	is.True(strings.Contains(got, "\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"))
	is.True(!strings.Contains(got, "Protocol:")) // none was offered
	r = asking("Sec-WebSocket-Protocol", "bearer.a.b.c, realtime.v1", "Upgrade", "WebSocket", "Connection", "upgrade")
	is.NoErr(Check(r, "realtime.v1"))
	is.True(strings.HasSuffix(string(Head(r, "realtime.v1")), "\r\nSec-WebSocket-Protocol: realtime.v1\r\n\r\n"))
	is.Equal(Offered(r), []string{"bearer.a.b.c", "realtime.v1"})
	is.NoErr(Check(r, "")) // by another door, which chooses none
	is.True(!strings.Contains(string(Head(r, "")), "Protocol:"))
}

func TestHandshakeThatIsWrong(t *testing.T) {
	body, post, http10, http2 := asking(), asking(), asking(), asking()
	body.Body, post.Method = http.MaxBytesReader(nil, http.NoBody, 1), http.MethodPost
	http10.ProtoMinor, http2.ProtoMajor = 0, 2
	twice := asking()
	twice.Header.Add("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
	for name, tc := range map[string]struct {
		r      *http.Request
		status int
	}{
		"no upgrade":           {asking("Upgrade", ""), 426},
		"to something else":    {asking("Upgrade", "h2c"), 426},
		"no Connection":        {asking("Connection", "keep-alive"), 426},
		"no version":           {asking("Sec-WebSocket-Version", ""), 426},
		"an older version":     {asking("Sec-WebSocket-Version", "8"), 426},
		"POST":                 {post, 426},
		"HTTP/1.0":             {http10, 426},
		"HTTP/2":               {http2, 426},
		"a body":               {body, 400},
		"no key":               {asking("Sec-WebSocket-Key", ""), 400},
		"two keys":             {twice, 400},
		"a key of 15 bytes":    {asking("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25j"), 400},
		"a key that is none":   {asking("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ"), 400},
		"subprotocols of else": {asking("Sec-WebSocket-Protocol", "bearer.a.b.c"), 400},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			err := Check(tc.r, "realtime.v1")
			is.True(err != nil)
			is.Equal(problem.Of(err).Status, tc.status)
			is.True(tc.r.ProtoMajor == 1 || len(problem.Of(err).Header) == 0) // or its client finds the answer broken
		})
	}
}
