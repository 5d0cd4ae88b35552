package main

import (
	"encoding/json"
	"io"
	"net/http"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/access"
	"realtimehub/internal/doctor"
	"realtimehub/internal/hubtest"
	"realtimehub/internal/sse"
)

// probeIn is what a probe's first event says.
func probeIn(t testing.TB, event sse.Event) (hello doctor.Hello) {
	t.Helper()
	if err := json.Unmarshal([]byte(event.Data), &hello); err != nil || event.Type != doctor.EventHello {
		t.Fatal(err, event)
	}
	return hello
}

// A probe that is left tells the one that it named, and only where that is the same
// holder's and has events; nothing of it stays.
func TestAProbeTellsOfItsEnd(t *testing.T) {
	alone(t, "a probe tells on its own hub")
	is := is.New(t)
	h := newTrustedHub(t, newAuth(t, access.Config{Secret: testSecret}), access.RatesConfig{})
	open := func(query, sub string) (*http.Response, *hubtest.Reader, doctor.Hello) {
		t.Helper()
		res, reader := h.openProbe(t, query, "Authorization", bearer(t, "sub", sub))
		is.Equal(res.StatusCode, http.StatusOK)
		event, err := reader.Next()
		is.NoErr(err)
		return res, reader, probeIn(t, event)
	}
	watching, reader, told := open("every=50ms&for=1m", "user:1")
	is.True(!told.Tells)
	silent, _, quiet := open("every=0&for=1m", "user:1")
	for _, c := range []struct {
		tell, sub string
		tells     bool
	}{
		{told.ID, "user:1", true}, {told.ID, "user:2", false}, {quiet.ID, "user:1", false}, {"AAAAAAAAAAAAAAAAAAAAAAAAAA", "user:1", false}, {"", "user:1", false},
	} {
		res, _, hello := open("every=0&for=1m&tell="+c.tell, c.sub)
		is.Equal(hello.Tells, c.tells)
		res.Body.Close()
		if !c.tells {
			continue
		}
		var gone doctor.Gone
		for gone.ID == "" {
			event, err := reader.Next()
			is.NoErr(err)
			if event.Type == doctor.EventGone {
				is.NoErr(json.Unmarshal([]byte(event.Data), &gone))
			}
		}
		is.Equal(gone.ID, hello.ID)
		is.Equal(gone.How, doctor.Left)
	}
	_, _, done := open("every=0&for=10ms&tell="+told.ID, "user:1") // which ends when it was to: no word of it
	is.True(done.Tells)
	silent.Body.Close()
	watching.Body.Close()
	eventually(t, func() bool { // it is not remembered
		res, _, hello := open("every=0&for=10ms&tell="+told.ID, "user:1")
		io.Copy(io.Discard, res.Body)
		return !hello.Tells
	})
}
