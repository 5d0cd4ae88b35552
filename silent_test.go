package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/access"
	"realtimehub/internal/cluster"
	"realtimehub/internal/cluster/clustertest"
	"realtimehub/internal/delivery"
	"realtimehub/internal/duty"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/outbox"
	"realtimehub/internal/room"
)

// owing runs test in a bubble, with a hub whose history keeps everything for days and whose
// deadlines are judged.
func owing(t *testing.T, peers cluster.Peers, test func(w presenceWorld, api func(path string) string)) {
	synctest.Test(t, func(t *testing.T) {
		limits, logger := testLimits, slog.New(slog.DiscardHandler)
		limits.TTL = 72 * time.Hour
		hub := NewHub(HubConfig{Retry: time.Second, Log: history.NewMemory(limits), Resolver: room.Own{}, Logger: logger}, PresenceConfig{Tick: time.Second, Grace: time.Second}, peers, Reporting{})
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go hub.duties.Run(ctx)
		defer hub.streams.Engine().Close(ctx)
		handler := checked(t, NewAPI(hub, openDoor(t), access.NewRates(access.RatesConfig{}), APIConfig{Logger: logger}).Handler())
		test(presenceWorld{hub, t}, func(path string) string {
			w, r := httptest.NewRecorder(), httptest.NewRequest("GET", path, nil)
			r.Host, r.RemoteAddr = "localhost", "127.0.0.1:1"
			handler.ServeHTTP(w, r)
			return w.Body.String()
		})
	})
}

// deadline publishes an event to some people, who are to acknowledge it in time.
func (w presenceWorld) deadline(in time.Duration, people ...event.Profile) {
	w.t.Helper()
	e := &event.Event{ID: "e", TenantID: "acme", Type: "a.b", Payload: json.RawMessage("1"), Deadline: in, Target: event.Target{Kind: event.KindProfiles, Profiles: people}}
	if _, err := w.Publish(w.t.Context(), []*event.Event{e}); err != nil {
		w.t.Fatal(err)
	}
}

// Where another hub does not answer, it is not known that somebody is offline, and how many
// connections there are of anybody.
func TestWhoMayBeWithASilentHub(t *testing.T) {
	for _, silent := range []bool{false, true} {
		peers := &clustertest.Peers{AnswerAll: func(cluster.Call) (answers []cluster.Answer, others []string) {
			if silent {
				return nil, []string{"another"}
			}
			return []cluster.Answer{{Why: []delivery.Why{delivery.WhyNoConnection, delivery.WhyNoConnection}, Each: []int{0, 0}}}, nil
		}}
		owing(t, peers, func(w presenceWorld, api func(string) string) {
			is := is.New(t)
			w.connect(alice)
			w.deadline(time.Second, alice, bob)
			w.wait(2 * time.Second)
			page, err := w.outbox.Read(t.Context(), "acme", outbox.Query{Limit: 10})
			is.NoErr(err)
			is.Equal(len(page.Items), 1)
			var data struct{ Profiles []duty.Person }
			is.NoErr(json.Unmarshal(page.Items[0].Data, &data))
			a, b := data.Profiles[0], data.Profiles[1]
			is.Equal(a.Status, "online") // whatever others know
			if silent {
				is.Equal([]any{a.Connections, b.Status, b.Connections, b.Why}, []any{(*int)(nil), "unknown", (*int)(nil), "unknown"})
			} else {
				is.Equal([]any{*a.Connections, b.Status, *b.Connections, b.Why}, []any{1, "offline", 0, "noConnection"})
			}
			is.True(strings.Contains(api("/v1/tenants/acme/outbox"), "event.undelivered")) // as the contract has it
		})
	}
}

// What came of an event with a deadline is not told as owed once it is kept no more.
func TestReceiptsThatAreKeptNoMore(t *testing.T) {
	owing(t, nil, func(w presenceWorld, api func(string) string) {
		is := is.New(t)
		w.deadline(time.Second, bob)
		w.wait(2 * time.Second)
		path := "/v1/tenants/acme/events/e/receipts"
		is.True(strings.Contains(api(path), `"state":"reported"`))
		w.wait(25 * time.Hour)
		for _, query := range []string{"", "?profile=bob"} {
			is.True(strings.Contains(api(path+query), `"state":"unknown"`))
			is.True(strings.Contains(api(path+query), `"counts":null`))
		}
	})
}
