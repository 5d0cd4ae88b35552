package request

import (
	"net/http"

	"realtimehub/internal/sized"
)

// TakenBack says that an HTTP/2 client has reset its request.
func TakenBack(r *http.Request) bool { return r.ProtoMajor > 1 && r.Context().Err() != nil }

// AbortIfReset ends a request that its client has reset. Somebody who floods a hub with such
// requests sends them faster than they are answered, so most are reset before their turn
// comes.
func AbortIfReset(r *http.Request) {
	if TakenBack(r) {
		panic(http.ErrAbortHandler)
	}
}

// usualHead is the part of a head that is counted with every request. What a head takes
// beyond it is counted where the head is kept.
const usualHead = 4 << 10

// The memory of a header without its texts, and of each of its values.
const (
	headerBytes = 96
	valueBytes  = 16
)

// mostHeaders is how many lines a request's head may have, as with other servers. The
// shortest lines take ten times as much memory as they have bytes.
const mostHeaders = 100

// TooManyHeaders says whether a request's head has more lines than it may.
func TooManyHeaders(r *http.Request) bool {
	n := 0
	for _, values := range r.Header {
		n += len(values)
	}
	return n > mostHeaders
}

// HeadBytes is the memory that a request's head takes beyond the usual.
func HeadBytes(r *http.Request) int64 {
	n := sized.Text(r.RequestURI) - usualHead
	for name, values := range r.Header {
		n += headerBytes + sized.Text(name)
		for _, value := range values {
			n += valueBytes + sized.Text(value)
		}
	}
	return max(0, n)
}

// DropBody has what comes behind the head of a GET or HEAD over HTTP/2 dropped, or its stream reset
// (RFC 9110, section 9.3.1). Nobody reads it, and net/http would keep up to 1 MiB of it for a
// connection as long as its requests last.
func DropBody(r *http.Request) {
	if r.Body != nil && r.ProtoMajor > 1 && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		r.Body.Close()
	}
}
