package outage

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"realtimehub/internal/hubtest"
)

// receipt names an event and one of its recipients.
type receipt struct{ event, profile string }

// ledger is what clients and services know: who acknowledged what, and who was reported.
type ledger struct {
	mu sync.Mutex
	// Guarded by mu.
	owed     map[receipt]bool // of events that were accepted
	acked    map[receipt]acknowledgement
	killed   []kill
	reported map[receipt]time.Time // the first time
	deadline map[string]time.Time  // by event
}

// acknowledgement was answered 204 between the times when it was asked for and when its client had
// read that.
type acknowledgement struct {
	hub       string // its URL
	asked, at time.Time
}

// kill is a hub's, which was there when it began and no more when it was over.
type kill struct {
	url         string
	begun, over time.Time
}

// unkept is how long a hub may not have kept what it was told, so that it is lost in a kill.
const unkept = 2 * time.Second

func newLedger() *ledger {
	return &ledger{owed: map[receipt]bool{}, acked: map[receipt]acknowledgement{}, reported: map[receipt]time.Time{}, deadline: map[string]time.Time{}}
}

// take notes who is reported in a batch, or in a page of the outbox.
func (l *ledger) take(body []byte) {
	type item struct {
		Type string
		Data struct {
			Event    struct{ ID string }
			Profiles []struct{ Profile struct{ ID string } }
		}
	}
	var batch struct {
		Data  struct{ Items []item }
		Items []item
	}
	json.Unmarshal(body, &batch)
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, item := range append(batch.Data.Items, batch.Items...) {
		for _, p := range item.Data.Profiles {
			if key := (receipt{item.Data.Event.ID, p.Profile.ID}); l.reported[key].IsZero() {
				l.reported[key] = now
			}
		}
	}
}

// pull notes who is reported in the outbox after a place, and is how far it has come.
func (l *ledger) pull(t *testing.T, h *hubtest.Hub, after float64) float64 {
	t.Helper()
	for {
		_, page := h.Do(t, "GET", fmt.Sprintf("/v1/tenants/acme/outbox?limit=1000&after=%.0f", after), "")
		items, _ := page["items"].([]any)
		if len(items) == 0 {
			return after
		}
		text, _ := json.Marshal(page)
		l.take(text)
		after = page["next"].(float64)
	}
}

func (l *ledger) accepted() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.deadline)
}

// neither are events that somebody has not acknowledged who is not reported, as far as is known.
func (l *ledger) neither() map[string]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	events := map[string]bool{}
	for key := range maps.Keys(l.owed) {
		if l.acked[key].at.IsZero() && l.reported[key].IsZero() {
			events[key.event] = true
		}
	}
	return events
}

// ask has a hub say who has acknowledged an event.
func (l *ledger) ask(t *testing.T, h *hubtest.Hub, event string) {
	t.Helper()
	_, answer := h.Do(t, "GET", "/v1/tenants/acme/events/"+event+"/receipts", "")
	list, _ := answer["receipts"].([]any)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range list {
		r := r.(map[string]any)
		if key := (receipt{event, r["profile"].(map[string]any)["id"].(string)}); r["state"] == "acknowledged" && l.acked[key].at.IsZero() {
			at, _ := time.Parse(time.RFC3339, r["at"].(string))
			l.acked[key] = acknowledgement{asked: at, at: at}
		}
	}
}

// kills has a hub killed.
func (l *ledger) kills(url string, now func()) {
	k := kill{url: url, begun: time.Now()}
	now()
	k.over = time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.killed = append(l.killed, k)
}

// count also counts those who were reported although a hub had answered their acknowledgement
// before the deadline: because it was killed then, and for no reason.
func (l *ledger) count() (acked, reported, lost, wrong int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, a := range l.acked {
		if l.reported[key].IsZero() || !a.at.Before(l.deadline[key.event]) {
			continue
		}
		if slices.ContainsFunc(l.killed, func(k kill) bool { return k.url == a.hub && k.over.After(a.asked) && k.begun.Sub(a.at) < unkept }) {
			lost++
		} else {
			wrong++
		}
	}
	return len(l.acked), len(l.reported), lost, wrong
}
