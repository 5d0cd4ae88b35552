package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/allowance"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/outbox"
	"realtimehub/internal/plan"
	"realtimehub/internal/room"
	"realtimehub/internal/settings"
)

// fragile is a Box that fails while it is told to: of every other call it has done what it was to.
type fragile struct {
	outbox.Box
	away  atomic.Bool
	calls atomic.Int64
}

var errAway = errors.New("the outbox is away")

func (f *fragile) Put(ctx context.Context, tenant, key string, drafts []outbox.Draft) error {
	if !f.away.Load() {
		return f.Box.Put(ctx, tenant, key, drafts)
	}
	if f.calls.Add(1)%2 == 0 {
		f.Box.Put(ctx, tenant, key, drafts)
	}
	return errAway
}

// toldWorld is a presenceWorld whose services are told of something.
type toldWorld struct {
	presenceWorld
	box  *fragile
	logs *syncBuffer
}

// telling runs test in a bubble with tick 1 s, grace 5 s, idle 5 m.
func telling(t *testing.T, types []outbox.Type, test func(w toldWorld, is *is.I)) {
	synctest.Test(t, func(t *testing.T) {
		box, logs := &fragile{Box: outbox.NewMemory(outbox.MemoryConfig{})}, &syncBuffer{}
		hub := NewHub(HubConfig{
			Retry: time.Second, Log: history.NewMemory(testLimits), Resolver: room.Own{}, Logger: slog.New(slog.NewTextHandler(logs, nil)),
			Quotas: allowance.New(plan.Of(1 << 30)),
		}, PresenceConfig{
			IdleTimeout: 5 * time.Minute, Tick: time.Second, Grace: 5 * time.Second, TypingTTL: 6 * time.Second, Audience: settings.AudienceNone,
		}, nil, Reporting{Types: types, Box: box})
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go hub.presence.Run(ctx)
		go hub.notices.Run(ctx)
		defer hub.streams.Engine().Close(ctx)
		test(toldWorld{presenceWorld{hub, t}, box, logs}, is.New(t))
	})
}

// toldItem is what a service reads of an item.
type toldItem struct {
	Type outbox.Type
	Data struct {
		TenantID                string
		Seq, Version            uint64
		Profile                 event.Profile
		Status, Since           string
		ID, Reason              string
		Metadata                map[string]string
		ConversationID, GroupID string
	}
}

// about says whom or what an item is of, and state what it tells.
func (i *toldItem) about() string { return i.Data.Profile.ID + i.Data.ConversationID + i.Data.GroupID }
func (i *toldItem) state() string {
	if i.Type == outbox.TypePresence {
		return i.Data.Status
	}
	return string(i.Type)
}

// toldItems are all that were put into a box of a tenant.
func toldItems(t testing.TB, box outbox.Box, tenant string) []toldItem {
	t.Helper()
	return toldAfter(t, box, tenant, 0)
}

// toldAfter are those after a place.
func toldAfter(t testing.TB, box outbox.Box, tenant string, place uint64) (items []toldItem) {
	t.Helper()
	page, err := box.Read(context.Background(), tenant, outbox.Query{After: place, Limit: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	for i := range page.Items {
		var item toldItem
		if err := json.Unmarshal(page.Items[i].AppendJSON(nil), &item); err != nil {
			t.Fatal(err)
		}
		if item.Data.TenantID != tenant || item.Data.Seq != page.Items[i].Seq || item.Type.IsState() != (item.Data.Version == item.Data.Seq) {
			t.Fatalf("%+v", item)
		}
		items = append(items, item)
	}
	return items
}

// toldOf are they, in words.
func toldOf(t testing.TB, box outbox.Box) string {
	t.Helper()
	var words []string
	for _, item := range toldItems(t, box, "acme") {
		words = append(words, item.about()+" "+item.state())
	}
	return strings.Join(words, ", ")
}

// lastOf applies items in any order, as docs/webhooks.md tells services to.
func lastOf(items []toldItem) map[string]string {
	states, versions := map[string]string{}, map[string]uint64{}
	for i := range items {
		if about := items[i].about(); items[i].Data.Version > versions[about] {
			states[about], versions[about] = items[i].state(), items[i].Data.Version
		}
	}
	return states
}
