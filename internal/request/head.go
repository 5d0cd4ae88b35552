package request

import (
	"net/http"

	"realtimehub/internal/sized"
)

// TakenBack says that an HTTP/2 client has taken its request back.
func TakenBack(r *http.Request) bool { return r.ProtoMajor > 1 && r.Context().Err() != nil }

// AbortIfReset ends a request that was taken back. Who floods a hub with such sends them
// faster than they are answered, so that most have been when their turn comes.
func AbortIfReset(r *http.Request) {
	if TakenBack(r) {
		panic(http.ErrAbortHandler)
	}
}

// usualHead is what is counted of a request's head wherever a request is: what one takes
// more is counted where it stays.
const usualHead = 4 << 10

// headerBytes is what a header takes in memory beside its texts, and each value of it.
const (
	headerBytes = 96
	valueBytes  = 16
)

// mostHeaders is how many lines a request's head may have, as with other servers. The
// smallest take ten times as much memory as on the wire.
const mostHeaders = 100

// TooManyHeaders says whether a request's head has more lines than it may.
func TooManyHeaders(r *http.Request) bool {
	n := 0
	for _, values := range r.Header {
		n += len(values)
	}
	return n > mostHeaders
}

// HeadBytes is the memory that a request's head takes past the usual.
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
