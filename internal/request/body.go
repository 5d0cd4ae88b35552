package request

import (
	"errors"
	"io"
	"math"
	"mime"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"

	"realtimehub/internal/allowance"
	"realtimehub/internal/event"
	"realtimehub/internal/problem"
	"realtimehub/internal/strictjson"
)

// MediaType is the media type of the body. A body that is compressed is refused, as it would
// be read as what it is not.
func MediaType(r *http.Request) (string, error) {
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

// Limit is how many bytes a JSON body may have; 0 lifts the limit.
type Limit int

// Small is the limit of calls that need little.
const Small Limit = 64 << 10

// firstRoom is the memory that a body gets before any of it has come.
const firstRoom = 4 << 10

// ErrBrokeOff is of a client that left before its request was answered.
var ErrBrokeOff = &problem.Problem{Status: http.StatusBadRequest, Code: "BodyUnreadable", Detail: "the connection ended in the middle of the body"}

// errSlow is of a body for which the server's time for a request was too short.
var errSlow = &problem.Problem{Status: http.StatusBadRequest, Code: "BodyUnreadable", Detail: "the body did not come whole within 30 s"}

// Read reads a whole JSON body.
func (l Limit) Read(r *http.Request, memory *allowance.Call) ([]byte, error) {
	switch kind, err := MediaType(r); {
	case err != nil:
		return nil, err
	case kind != "application/json":
		return nil, errMediaType
	}
	return l.Bytes(r, memory)
}

// Bytes reads a whole body of whatever media type. Memory is taken as the body comes, not as its
// client announces it.
func (l Limit) Bytes(r *http.Request, memory *allowance.Call) ([]byte, error) {
	tooLarge := &http.MaxBytesError{Limit: int64(l)}
	announced, end := r.ContentLength, int64(math.MaxInt) // where a client says that it ends; what is not read
	if l > 0 {
		if announced > int64(l) {
			return nil, tooLarge
		}
		end = int64(l) + 1
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
		case l > 0 && len(body) > int(l):
			return nil, tooLarge
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil, errSlow
		case err == io.EOF && announced > int64(len(body)), err != nil && err != io.EOF:
			return nil, ErrBrokeOff
		case err == io.EOF:
			return body, nil
		}
	}
}

// Object reads a body that is one JSON object, strictly, and tells all faults at once.
func (l Limit) Object(r *http.Request, memory *allowance.Call, member func(f *problem.Faults, name string, v strictjson.Value)) error {
	body, err := l.Read(r, memory)
	if err != nil {
		return err
	}
	over, err := BodyTurn(r.Context(), memory.Tenant(), len(body))
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

// Profiles reads a body that names profiles to ask about.
func (l Limit) Profiles(r *http.Request, memory *allowance.Call) (asked []event.Profile, err error) {
	found := false
	err = l.Object(r, memory, func(f *problem.Faults, name string, v strictjson.Value) {
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

// ProfilesOf are the profiles that a query names; an empty text is none.
func ProfilesOf(f *problem.Faults, query url.Values) []event.Profile {
	profiles := []event.Profile{}
	for i, text := range query["profile"] {
		switch {
		case text == "":
		case len(profiles) == event.MaxAskedProfiles:
			f.Add(problem.CodeInvalidField, "profile", "%d profiles at most", event.MaxAskedProfiles)
			return nil
		default:
			profiles = append(profiles, f.Profile("profile["+strconv.Itoa(i)+"]", text))
		}
	}
	return profiles
}

var errEncoding = &problem.Problem{Status: http.StatusUnsupportedMediaType, Code: "UnsupportedMediaType", Detail: "the body must not be compressed: Content-Encoding must be identity, or absent",
	Header: http.Header{"Accept-Encoding": {"identity"}}}
