package main

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"realtimehub/internal/strictjson"
)

// handler answers for a caller whose scope and tenant are proven; an error becomes
// problem details.
type handler func(w http.ResponseWriter, r *http.Request, who *Caller) error

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

var errMediaType = &problem{http.StatusUnsupportedMediaType, "UnsupportedMediaType", "the body must be application/json in UTF-8"}

// bodyLimit is how many bytes a JSON body may have; 0 lifts the limit.
type bodyLimit int

// read reads a JSON body whole.
func (most bodyLimit) read(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	switch kind, err := mediaType(r); {
	case err != nil:
		return nil, err
	case kind != "application/json":
		return nil, errMediaType
	}
	if n := r.ContentLength; n > 0 && n <= smallBody && (most <= 0 || n <= int64(most)) {
		body := make([]byte, n)
		if _, err := io.ReadFull(r.Body, body); err != nil {
			return nil, errBrokeOff
		}
		return body, nil
	}
	from := io.Reader(r.Body)
	if most > 0 {
		from = http.MaxBytesReader(w, r.Body, int64(most))
	}
	body, err := io.ReadAll(from)
	var tooLarge *http.MaxBytesError
	if err != nil && !errors.As(err, &tooLarge) {
		return nil, errBrokeOff
	}
	return body, err
}

// smallBody is how much is made room for on a client's mere word.
const smallBody = 4 << 10

var errBrokeOff = &problem{http.StatusBadRequest, "BodyUnreadable", "the body broke off"}

// object reads a small body strictly, all faults at once.
func (most bodyLimit) object(w http.ResponseWriter, r *http.Request, member func(f *Faults, name string, v strictjson.Value)) error {
	body, err := most.read(w, r)
	if err != nil {
		return err
	}
	var faults Faults
	if err := strictjson.Object(body, func(name []byte, v strictjson.Value) { member(&faults, string(name), v) }); err != nil {
		return &FieldError{CodeMalformedJSON, "", -1, err.Error()}
	}
	return faults.Err()
}

// profiles reads a body that names profiles to ask about.
func (most bodyLimit) profiles(w http.ResponseWriter, r *http.Request) (asked []ProfileRef, err error) {
	found := false
	err = most.object(w, r, func(f *Faults, name string, v strictjson.Value) {
		if name != "profiles" {
			f.add(CodeUnknownField, name, `the body has "profiles" only`)
			return
		}
		found = !absent(v)
		count := 0
		v.Array(func(int, strictjson.Value) { count++ })
		if count > MaxAskedProfiles {
			f.add(CodeInvalidField, name, "%d profiles at most", MaxAskedProfiles)
			return
		}
		asked = f.profiles(CodeInvalidField, name, v)
	})
	if err == nil && !found {
		err = &FieldError{CodeInvalidField, "profiles", -1, "an array of profiles is needed"}
	}
	return asked, err
}

// askedProfiles are those that a query names.
func askedProfiles(f *Faults, query url.Values) []ProfileRef {
	asked := query["profile"]
	if len(asked) > MaxAskedProfiles {
		f.add(CodeInvalidField, "profile", "%d profiles at most", MaxAskedProfiles)
		return nil
	}
	profiles := make([]ProfileRef, len(asked))
	for i, text := range asked {
		profiles[i] = f.profile("profile["+strconv.Itoa(i)+"]", text)
	}
	return profiles
}

// untilNone waits until a count is zero, or ctx ends.
func untilNone(ctx context.Context, count *atomic.Int64) {
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for count.Load() > 0 && ctx.Err() == nil {
		<-ticker.C
	}
}
