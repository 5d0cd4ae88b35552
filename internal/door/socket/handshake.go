package socket

import (
	"crypto/sha1"
	"encoding/base64"
	"net/http"
	"slices"
	"strings"

	"realtimehub/internal/problem"
)

// errUpgrade answers what is no request for WebSocket, or for another version of it.
var errUpgrade = &problem.Problem{Status: http.StatusUpgradeRequired, Code: "UpgradeRequired", Detail: "this is a WebSocket: send GET over HTTP/1.1 with Connection: Upgrade, Upgrade: websocket and Sec-WebSocket-Version: 13",
	Header: http.Header{"Upgrade": {"websocket"}, "Connection": {"Upgrade"}, "Sec-WebSocket-Version": {"13"}}}

// errVersion is errUpgrade over HTTP/2, in which an answer must not have headers of the connection
// (RFC 9113, section 8.2.2): a client takes it for broken then.
var errVersion = &problem.Problem{Status: errUpgrade.Status, Code: errUpgrade.Code, Detail: errUpgrade.Detail}

// errHandshake answers a request for WebSocket that is not valid.
func errHandshake(detail string) error {
	return &problem.Problem{Status: http.StatusBadRequest, Code: "InvalidHandshake", Detail: detail}
}

// Upgrades says whether a request asks for a WebSocket, rightly or not.
func Upgrades(r *http.Request) bool { return has(r.Header["Upgrade"], "websocket") }

// Check says what is wrong with a request for an upgrade (RFC 6455, section 4.2.1). subprotocol is
// the one that is chosen; empty: none.
func Check(r *http.Request, subprotocol string) error {
	keys := r.Header["Sec-Websocket-Key"]
	switch {
	case r.ProtoMajor > 1:
		return errVersion
	case r.Method != http.MethodGet, !r.ProtoAtLeast(1, 1),
		!has(r.Header["Connection"], "upgrade"), !Upgrades(r),
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
	if offered := Offered(r); subprotocol != "" && len(offered) > 0 && !slices.Contains(offered, subprotocol) {
		return errHandshake("Sec-WebSocket-Protocol must have " + subprotocol + " among others, or not be there: a browser refuses a socket for which none is chosen")
	}
	return nil
}

// Offered are the subprotocols that a client names (RFC 6455, section 1.9).
func Offered(r *http.Request) []string { return listed(r.Header["Sec-Websocket-Protocol"]) }

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

// Head is the answer to a request that [Check] has nothing against.
func Head(r *http.Request, subprotocol string) []byte {
	hash := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + acceptance))
	b := []byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ")
	b = append(base64.StdEncoding.AppendEncode(b, hash[:]), "\r\n"...)
	if subprotocol != "" && len(Offered(r)) > 0 {
		b = append(b, "Sec-WebSocket-Protocol: "+subprotocol+"\r\n"...)
	}
	return append(b, "\r\n"...)
}
