package websocket

import (
	"crypto/sha1"
	"encoding/base64"
	"net/http"
	"slices"
	"strings"

	"realtimehub/internal/problem"
)

// Subprotocols that clients name (RFC 6455, section 1.9).
const (
	subprotocol = "realtime.v1" // is chosen
	bearer      = "bearer."     // followed by a token: a page can send no header
)

// errUpgrade answers what is no request for WebSocket, or for another version of it.
var errUpgrade = &problem.Problem{Status: http.StatusUpgradeRequired, Code: "UpgradeRequired", Detail: "this is a WebSocket: send GET over HTTP/1.1 with Connection: Upgrade, Upgrade: websocket and Sec-WebSocket-Version: 13",
	Header: http.Header{"Upgrade": {"websocket"}, "Connection": {"Upgrade"}, "Sec-WebSocket-Version": {"13"}}}

// errHandshake answers a request for WebSocket that is not valid.
func errHandshake(detail string) error {
	return &problem.Problem{Status: http.StatusBadRequest, Code: "InvalidHandshake", Detail: detail}
}

// Check says what is wrong with a request for an upgrade (RFC 6455, section 4.2.1).
func Check(r *http.Request) error {
	keys := r.Header["Sec-Websocket-Key"]
	switch {
	case r.Method != http.MethodGet, !r.ProtoAtLeast(1, 1), r.ProtoMajor > 1,
		!has(r.Header["Connection"], "upgrade"), !has(r.Header["Upgrade"], "websocket"),
		!slices.Equal(r.Header["Sec-Websocket-Version"], []string{"13"}):
		return errUpgrade
	case r.Body != http.NoBody:
		return errHandshake("a request for a WebSocket must not have a body")
	case len(keys) != 1:
		return errHandshake("Sec-WebSocket-Key is needed, once")
	}
	if key, err := base64.StdEncoding.Strict().DecodeString(keys[0]); err != nil || len(key) != 16 {
		return errHandshake("Sec-WebSocket-Key must be 16 bytes in base64")
	}
	if offered := r.Header["Sec-Websocket-Protocol"]; len(offered) > 0 && !has(offered, subprotocol) {
		return errHandshake("Sec-WebSocket-Protocol must have " + subprotocol + " among others, or not be there: a browser refuses a socket for which none is chosen")
	}
	return nil
}

// Authorize puts the token that a request has among its subprotocols where other requests have it.
func Authorize(r *http.Request) {
	for _, offered := range listed(r.Header["Sec-Websocket-Protocol"]) {
		if token, ok := strings.CutPrefix(offered, bearer); ok {
			r.Header["Authorization"] = append(r.Header["Authorization"], "Bearer "+token)
		}
	}
}

// listed are the items of a header that is a list (RFC 9110, section 5.6.1).
func listed(lines []string) (items []string) {
	for _, line := range lines {
		for item := range strings.SplitSeq(line, ",") {
			if item = strings.TrimSpace(item); item != "" {
				items = append(items, item)
			}
		}
	}
	return items
}

// has says whether a header that is a list has a token, in any case.
func has(lines []string, token string) bool {
	return slices.ContainsFunc(listed(lines), func(item string) bool { return strings.EqualFold(item, token) })
}

// acceptance ends each Sec-WebSocket-Key before it is hashed (RFC 6455, section 1.3).
const acceptance = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

// head is the answer to a request that Check has nothing against.
func head(r *http.Request) []byte {
	hash := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + acceptance))
	b := []byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ")
	b = append(base64.StdEncoding.AppendEncode(b, hash[:]), "\r\n"...)
	if len(r.Header["Sec-Websocket-Protocol"]) > 0 {
		b = append(b, "Sec-WebSocket-Protocol: "+subprotocol+"\r\n"...)
	}
	return append(b, "\r\n"...)
}
