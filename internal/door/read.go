package door

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/google/uuid"

	"realtimehub/internal/access"
	"realtimehub/internal/client"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/problem"
)

// Read reads what a client asks of a stream, by whichever door. Its transport, encoding and
// cursor are the door's to say.
func Read(r *http.Request, who *access.Caller) (s delivery.Subscription, query url.Values, err error) {
	var faults problem.Faults
	query = faults.Query(r.URL.RawQuery)
	s.Tenant, s.Profile, err = who.Client(r, query)
	s.Expires = who.Expires()
	if types := query.Get("types"); types != "" {
		s.Types = faults.Types("types", strings.Split(types, ","))
	}
	s.Acks = Flag(&faults, query, "ack", false)
	s.Previous = connection(&faults, query, "previous")
	if list := query["presence"]; len(list) > 0 && list[0] != "" {
		s.Watch = client.WatchList(&faults, "presence", list)
	}
	s.Metadata = metadata(&faults, query)
	if r.TLS != nil {
		s.Session = sessionBytes
	}
	return s, query, errors.Join(err, faults.Err())
}

// Flag reads a parameter that is true or false.
func Flag(f *problem.Faults, query url.Values, name string, otherwise bool) bool {
	switch query.Get(name) {
	case "":
		return otherwise
	case "true":
		return true
	case "false":
		return false
	}
	f.Add(problem.CodeInvalidField, name, "must be true or false")
	return otherwise
}

// connection reads a parameter that is a connection's id; zero: it is not there.
func connection(f *problem.Faults, query url.Values, name string) (id uuid.UUID) {
	text := query.Get(name)
	if text == "" {
		return id
	}
	id, err := event.ParseConnectionID(text)
	if err != nil {
		f.Add(problem.CodeInvalidField, name, "must be the id of a connection")
	}
	return id
}

// metadata reads what is kept with a connection; nil: nothing.
func metadata(f *problem.Faults, query url.Values) (m map[string]string) {
	for name, values := range query {
		key, ok := strings.CutPrefix(name, "meta.")
		if !ok || len(values) == 0 {
			continue
		}
		if key == "" || !event.ValidText(key) || !event.ValidText(values[0]) {
			f.Add(problem.CodeInvalidField, name, "must be UTF-8 of up to 256 bytes, without control characters")
			continue
		}
		if m == nil {
			m = map[string]string{}
		}
		m[strings.Clone(key)] = strings.Clone(values[0])
	}
	if len(m) > 16 {
		f.Add(problem.CodeInvalidField, "meta", "16 keys at most")
	}
	return m
}
