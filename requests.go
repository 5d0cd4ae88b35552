package main

import (
	"context"
	"io"
	"math"
	"mime"
	"net/http"
	"net/url"
	"runtime"
	"strconv"
	"strings"

	"realtimehub/internal/allowance"
	"realtimehub/internal/event"
	"realtimehub/internal/fair"
	"realtimehub/internal/problem"
	"realtimehub/internal/quota"
	"realtimehub/internal/sized"
	"realtimehub/internal/strictjson"
)

// mediaType is what the body is said to be. One that is compressed would be read as
// what it is not.
func mediaType(r *http.Request) (string, error) {
	for _, coding := range r.Header["Content-Encoding"] {
		if coding != "" && !strings.EqualFold(coding, "identity") {
			return "", errEncoding
		}
	}
	header := r.Header.Get("Content-Type")
	if header == "application/json" {
		return header, nil
	}
	kind, params, err := mime.ParseMediaType(header)
	if charset := params["charset"]; err != nil || charset != "" && !strings.EqualFold(charset, "utf-8") {
		return "", errMediaType
	}
	return kind, nil
}

var errMediaType = &problem.Problem{Status: http.StatusUnsupportedMediaType, Code: "UnsupportedMediaType", Detail: "the body must be application/json in UTF-8"}

// bodyLimit is how many bytes a JSON body may have; 0 lifts the limit.
type bodyLimit int

// smallCall is the limit of calls whose bodies say little.
const smallCall bodyLimit = 64 << 10

// firstRoom is what is made room for on a client's mere word.
const firstRoom = 4 << 10

var errBrokeOff = &problem.Problem{Status: http.StatusBadRequest, Code: "BodyUnreadable", Detail: "the body broke off"}

// read reads a JSON body whole. Room is made for what comes, and not for what a client
// says that will.
func (most bodyLimit) read(r *http.Request, memory *allowance.Call) ([]byte, error) {
	switch kind, err := mediaType(r); {
	case err != nil:
		return nil, err
	case kind != "application/json":
		return nil, errMediaType
	}
	tooLarge := &http.MaxBytesError{Limit: int64(most)}
	announced, end := r.ContentLength, int64(math.MaxInt) // where a client says that it ends; what is not read
	if most > 0 {
		if announced > int64(most) {
			return nil, tooLarge
		}
		end = int64(most) + 1
	}
	if announced >= 0 {
		end = min(end, announced)
	}
	for body := []byte(nil); ; {
		if len(body) == cap(body) {
			if int64(len(body)) == announced {
				return body, nil
			}
			more := int(min(int64(max(2*cap(body), firstRoom)), end))
			if !memory.Use(allowance.BodyCopies * (more - cap(body))) {
				return nil, problem.ErrBodies
			}
			body = append(make([]byte, 0, more), body...)
		}
		n, err := r.Body.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		switch {
		case most > 0 && len(body) > int(most):
			return nil, tooLarge
		case err == io.EOF && announced > int64(len(body)), err != nil && err != io.EOF:
			return nil, errBrokeOff
		case err == io.EOF:
			return body, nil
		}
	}
}

// isReset says that an HTTP/2 client has taken its request back.
func isReset(r *http.Request) bool { return r.ProtoMajor > 1 && r.Context().Err() != nil }

// unlessReset ends a request that was taken back. Who floods a hub with such sends them
// faster than they are answered, so that most have been when their turn comes.
func unlessReset(r *http.Request) {
	if isReset(r) {
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

// crowded says whether a request's head has more lines than it may.
func crowded(r *http.Request) bool {
	n := 0
	for _, values := range r.Header {
		n += len(values)
	}
	return n > mostHeaders
}

// longHead is the memory that a request's head takes past the usual.
func longHead(r *http.Request) int64 {
	n := sized.Text(r.RequestURI) - usualHead
	for name, values := range r.Header {
		n += headerBytes + sized.Text(name)
		for _, value := range values {
			n += valueBytes + sized.Text(value)
		}
	}
	return max(0, n)
}

// largeBody is how many bytes a body has that takes many times as long as others: they
// take turns, of one tenant after the other, and leave half of the processors to calls
// that do not take long.
const largeBody = 64 << 10

var largeTurns = fair.NewSemaphore(quota.New[string](int64(max(runtime.GOMAXPROCS(0)/2, 1)), 0))

// largeTurn waits for a tenant's turn, as long as ctx does; over is to be called.
func largeTurn(ctx context.Context, tenant string) (over func(), err error) {
	if err := largeTurns.Acquire(ctx, tenant); err != nil {
		return nil, err
	}
	return func() { largeTurns.Release(tenant) }, nil
}

// bodyTurn is largeTurn for a body of so many bytes, if they are many.
func bodyTurn(ctx context.Context, tenant string, size int) (over func(), err error) {
	return turnPast(largeBody, ctx, tenant, size)
}

// largeRoom has so many members that what is done with all of them takes as long as
// reading a large body.
const largeRoom = 1000

// listTurn is largeTurn for a list of so many, if they are many.
func listTurn(ctx context.Context, tenant string, size int) (over func(), err error) {
	return turnPast(largeRoom, ctx, tenant, size)
}

func turnPast(few int, ctx context.Context, tenant string, size int) (over func(), err error) {
	if size <= few {
		return func() {}, nil
	}
	if over, err = largeTurn(ctx, tenant); err != nil {
		return nil, errBrokeOff // nobody is there to be told
	}
	return over, nil
}

// object reads a small body strictly, all faults at once.
func (most bodyLimit) object(r *http.Request, memory *allowance.Call, member func(f *problem.Faults, name string, v strictjson.Value)) error {
	body, err := most.read(r, memory)
	if err != nil {
		return err
	}
	over, err := bodyTurn(r.Context(), memory.Tenant(), len(body))
	if err != nil {
		return err
	}
	defer over()
	faults := problem.Faults{Room: memory.Use}
	if err := strictjson.Object(body, func(name []byte, v strictjson.Value) {
		if !faults.Full() {
			member(&faults, string(name), v)
		}
	}); err != nil {
		return &problem.FieldError{Code: problem.CodeMalformedJSON, Field: "", Index: -1, Detail: err.Error()}
	}
	return faults.Err()
}

// profiles reads a body that names profiles to ask about.
func (most bodyLimit) profiles(r *http.Request, memory *allowance.Call) (asked []event.Profile, err error) {
	found := false
	err = most.object(r, memory, func(f *problem.Faults, name string, v strictjson.Value) {
		if name != "profiles" {
			f.Add(problem.CodeUnknownField, name, `the body has "profiles" only`)
			return
		}
		found = !problem.Absent(v)
		if !f.TooMany(problem.CodeInvalidField, name, v, event.MaxAskedProfiles, "profiles") {
			asked = f.Profiles(problem.CodeInvalidField, name, v)
		}
	})
	if err == nil && !found {
		err = &problem.FieldError{Code: problem.CodeInvalidField, Field: "profiles", Index: -1, Detail: "an array of profiles is needed"}
	}
	return asked, err
}

// askedProfiles are those that a query names.
func askedProfiles(f *problem.Faults, query url.Values) []event.Profile {
	asked := query["profile"]
	if len(asked) > event.MaxAskedProfiles {
		f.Add(problem.CodeInvalidField, "profile", "%d profiles at most", event.MaxAskedProfiles)
		return nil
	}
	profiles := make([]event.Profile, len(asked))
	for i, text := range asked {
		profiles[i] = f.Profile("profile["+strconv.Itoa(i)+"]", text)
	}
	return profiles
}

var errEncoding = &problem.Problem{Status: http.StatusUnsupportedMediaType, Code: "UnsupportedMediaType", Detail: "the body must not be compressed: Content-Encoding must be identity, or absent",
	Header: http.Header{"Accept-Encoding": {"identity"}}}
