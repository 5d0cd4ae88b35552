package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/request"
	"realtimehub/internal/sse"
)

// What is larger takes turns (docs/limits.md).
const (
	largeBody = 64 << 10 // bytes
	largeRoom = 1000     // members
)

// anyLength lets a list of any length be made.
func anyLength(int) (end func(), err error) { return func() {}, nil }

// Who publishes large bodies waits for a turn before they are understood.
func TestLargeEventsTakeTurns(t *testing.T) {
	alone(t, "its requests end before they begin")
	is := is.New(t)
	h := newTestHub(t)
	post := func(ctx context.Context, path, kind, body string) int {
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(ctx, "POST", "http://localhost"+path, strings.NewReader(body))
		r.Header.Set("Content-Type", kind)
		h.API.Handler().ServeHTTP(w, r)
		return w.Code
	}
	event := `{"tenantId":"acme","type":"a.b","payload":"` + strings.Repeat("x", largeBody/2+1) + `","target":{"kind":"tenant"}}`
	for range max(runtime.GOMAXPROCS(0)/2, 1) {
		over, err := request.BodyTurn(t.Context(), "other", largeBody+1)
		is.NoErr(err)
		defer over()
	}
	left, leave := context.WithCancel(t.Context())
	leave()
	small := `{"tenantId":"acme","type":"a.b","payload":1,"target":{"kind":"tenant"}}`
	is.Equal(post(left, "/v1/events", "application/json", small), http.StatusAccepted)
	spaces := strings.Repeat(" ", largeBody)
	is.Equal(post(left, "/v1/events", "application/json", small+spaces), http.StatusBadRequest) // it left before its turn came
	is.Equal(post(left, "/v1/events/batch", "application/json", `{"events":[`+event+","+event+"]}"), http.StatusBadRequest)
	post(left, "/v1/events", "application/x-ndjson", event+"\n"+event+"\n")
	page, _, err := h.History(t.Context(), "acme", "", 10)
	is.NoErr(err)
	is.Equal(len(page.Entries), 1) // the small one alone
}

// Who asks for a long list waits for a turn before it is made, as who sends one does.
func TestLongListsTakeTurns(t *testing.T) {
	is := is.New(t)
	h := newTestHub(t)
	room := event.Room{Kind: event.KindConversation, ID: "large"}
	members := make([]event.Profile, largeRoom+1)
	for i := range members {
		members[i] = event.Profile{Type: "user", ID: fmt.Sprint(i)}
	}
	is.NoErr(untilConfirmed(func() error { return h.members.SetMembers(t.Context(), "acme", room, members) }))
	is.NoErr(untilConfirmed(func() error {
		return h.members.SetMembers(t.Context(), "acme", event.Room{Kind: event.KindConversation, ID: "small"}, members[:largeRoom])
	}))
	for _, p := range members {
		_, err := h.streams.Connect(t.Context(), delivery.Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: p})
		is.NoErr(err)
	}
	ask := func(ctx context.Context, path string) int {
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(ctx, "GET", "http://localhost/v1/tenants/acme"+path, nil)
		h.API.Handler().ServeHTTP(w, r)
		return w.Code
	}
	paths := []string{"/conversations/large/members", "/conversations/large/presence", "/presence"}
	for range max(runtime.GOMAXPROCS(0)/2, 1) {
		over, err := request.BodyTurn(t.Context(), "other", largeBody+1)
		is.NoErr(err)
		defer over()
	}
	left, leave := context.WithCancel(t.Context())
	leave()
	for _, path := range paths {
		is.Equal(ask(left, path), http.StatusBadRequest) // it left before its turn came
	}
	is.Equal(ask(left, "/conversations/small/members"), http.StatusOK)
	patient, end := context.WithTimeout(t.Context(), time.Minute) // other hubs are asked
	defer end()
	is.Equal(ask(patient, "/connections?limit=1"), http.StatusOK) // it waits for no turn: the others are not looked at
}
