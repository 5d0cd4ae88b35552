package main

import (
	"context"
	"encoding/base32"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/access"
	"realtimehub/internal/broker"
	"realtimehub/internal/broker/table"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/natstest"
)

// sharing starts hubs of one broker, each when it is asked for, with settings of its own.
func sharing(t *testing.T, configure ...func(*HubConfig, *PresenceConfig)) (start func(events int) *testHub, b *natstest.Broker, prefix string) {
	alone(t, "it makes its own")
	b, prefix = natstest.Start(t, 1), newPrefix()
	return func(events int) *testHub {
		t.Helper()
		limits := testLimits
		limits.Events = events
		h := newNode(t, openDoor(t), access.RatesConfig{}, func(kept history.Limits, external bool) *broker.Broker {
			return joinBroker(t, b, 0, prefix, kept)
		}, append(configure, func(hub *HubConfig, _ *PresenceConfig) { hub.Log = history.NewMemory(limits) })...)
		h.nodes = []*testHub{h}
		return h
	}, b, prefix
}

// past reads a tenant's history after a cursor: how many events there are, and whether
// something is said to be missing.
func (h *testHub) past(t *testing.T, cursor string) (events int, gap bool) {
	t.Helper()
	for {
		status, answer := h.answered(t, "GET", "/v1/tenants/acme/events?limit=1000&after="+cursor, "")
		if status != http.StatusOK {
			t.Fatal(status, answer)
		}
		var page struct {
			Events []json.RawMessage `json:"events"`
			Cursor string            `json:"cursor"`
			Gap    bool              `json:"gap"`
		}
		data, _ := json.Marshal(answer)
		if err := json.Unmarshal(data, &page); err != nil {
			t.Fatal(err)
		}
		events, gap = events+len(page.Events), gap || page.Gap
		if len(page.Events) == 0 {
			return events, gap
		}
		cursor = page.Cursor
	}
}

// isPartial opens a stream from a cursor, and expects that it is told of a gap.
func isPartial(t *testing.T, h *testHub, cursor string) {
	t.Helper()
	is := is.NewRelaxed(t)
	is.Helper()
	client := h.back(t, cursor, meQuery)
	is.Equal(client.resume(t), "partial")
	gap := client.next(t)
	is.Equal(gap.Type, "hub.gap")
	is.True(strings.Contains(gap.Data, `"reason":"expired"`))
	_, told := h.past(t, cursor)
	is.True(told)
	client.close()
}

func publishMany(t *testing.T, hubs []*testHub, from, until int) (last string) {
	t.Helper()
	for i := from; i < until; i++ {
		last = hubs[i%len(hubs)].publish(t, "acme", "a.b", `{"kind":"tenant"}`, fmt.Sprint(i))["cursor"].(string)
	}
	return last
}

// What went while another setting was in force is told of: after the setting was raised,
// and by hubs whose settings differ, whoever of them started last.
func TestWhatAnotherSettingLetGo(t *testing.T) {
	t.Parallel()
	start, _, _ := sharing(t)
	one, two := start(50), start(50)
	one.publish(t, "other", "a.b", `{"kind":"tenant"}`, "0") // or what goes next would be the stream's first
	c := one.open(t, meQuery)
	c.close()
	kept := publishMany(t, []*testHub{one, two}, 0, 200)
	large := start(1000) // as after HISTORY_EVENTS was raised
	last := publishMany(t, []*testHub{one, two, large}, 200, 299)
	fresh := start(1000)
	for _, h := range []*testHub{one, large, fresh} {
		isPartial(t, h, c.Cursor)
	}
	is := is.New(t)
	is.Equal(large.back(t, kept, meQuery).resume(t), "complete") // all 99 are there
	small := start(50)                                           // the broker keeps 51 from now on
	after := publishMany(t, []*testHub{large}, 299, 400)
	for _, h := range []*testHub{small, start(1000)} { // the other has all of it near
		isPartial(t, h, last)
		is.Equal(h.back(t, after, meQuery).resume(t), "complete")
	}
}

// So is what somebody has purged who is no hub.
func TestWhatAnOperatorPurged(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	start, broker, prefix := sharing(t)
	one := start(1000)
	one.publish(t, "other", "a.b", `{"kind":"tenant"}`, "0")
	c := one.open(t, meQuery)
	c.close()
	publishMany(t, []*testHub{one}, 0, 299)
	subject := prefix + ".ev." + base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString([]byte("acme"))
	js, err := jetstream.New(broker.Connect(t, 0))
	is.NoErr(err)
	stream, err := js.Stream(t.Context(), prefix+"_journal")
	is.NoErr(err)
	is.NoErr(stream.Purge(t.Context(), jetstream.WithPurgeSubject(subject), jetstream.WithPurgeKeep(51)))
	fresh := start(1000) // the first has all of it near
	isPartial(t, fresh, c.Cursor)
	is.NoErr(stream.Purge(t.Context(), jetstream.WithPurgeSubject(subject)))
	last := publishMany(t, []*testHub{one}, 299, 310)
	fresh = start(1000)
	isPartial(t, fresh, c.Cursor)
	is.Equal(fresh.back(t, last, meQuery).resume(t), "complete")
}

// Of what one deleted in the middle, all before it comes, then the gap, then the rest.
func TestWhatAnOperatorDeleted(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	start, broker, prefix := sharing(t)
	one := start(1000)
	c := one.open(t, meQuery)
	c.close()
	publishMany(t, []*testHub{one}, 0, 20)
	js, err := jetstream.New(broker.Connect(t, 0))
	is.NoErr(err)
	stream, err := js.Stream(t.Context(), prefix+"_journal")
	is.NoErr(err)
	info, err := stream.Info(t.Context())
	is.NoErr(err)
	is.NoErr(stream.DeleteMsg(t.Context(), info.State.LastSeq-10))
	fresh := start(1000)
	is.Equal(fresh.replayed(t, fresh.back(t, c.Cursor, meQuery)), "0 1 2 3 4 5 6 7 8 hub.gap 10 11 12 13 14 15 16 17 18 19")
	events, gap := fresh.past(t, c.Cursor)
	is.Equal(events, 19)
	is.True(gap)
}

// A member who came and went more often than is kept is told of what it may lack, by every
// hub; others are not.
func TestStaysThatWereCutShort(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	start, _, _ := sharing(t)
	one, two := start(1000), start(1000)
	room, me := event.Room{Kind: event.KindConversation, ID: "r"}, event.Profile{Type: "user", ID: "me"}
	is.NoErr(untilConfirmed(func() error { return one.members.AddMember(t.Context(), "acme", room, me) }))
	is.NoErr(untilConfirmed(func() error {
		return one.members.AddMember(t.Context(), "acme", room, event.Profile{Type: "user", ID: "you"})
	}))
	c := one.open(t, meQuery)
	stays := one.open(t, "tenant=acme&profile=you") // so that the tenant is known
	var late string
	for i := range 40 {
		cursor := two.publish(t, "acme", "a.b", `{"kind":"conversation","conversationId":"r"}`, fmt.Sprint(i))["cursor"].(string)
		if i == 35 {
			late = cursor
		}
		is.NoErr(untilConfirmed(func() error { return one.members.RemoveMember(t.Context(), "acme", room, me) }))
		is.NoErr(untilConfirmed(func() error { return one.members.AddMember(t.Context(), "acme", room, me) }))
	}
	for _, h := range []*testHub{one, two, start(1000)} {
		client := h.back(t, c.Cursor, meQuery)
		is.Equal(client.resume(t), "partial")
		is.Equal(h.back(t, late, meQuery).resume(t), "complete") // those stays are kept
		is.Equal(h.back(t, c.Cursor, "tenant=acme&profile=you").resume(t), "complete")
	}
	stays.close()
}

// A version before kept one stay more, and did not say that it had cut: so it may have.
func TestStaysThatAVersionBeforeCutShort(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	start, b, prefix := sharing(t)
	one := start(1000)
	c := one.open(t, meQuery)
	c.close()
	publishMany(t, []*testHub{one}, 0, 100)
	kept, err := table.Open(t.Context(), b.Connect(t, 0), table.Config{
		Prefix: prefix, Replicas: 1, Logger: one.logger,
		Changed: func(context.Context, []string, uint64) error { return nil },
		Lost:    func(context.Context, string, bool) error { return nil },
	})
	is.NoErr(err)
	t.Cleanup(kept.Close)
	for who, stays := range map[string]uint64{"me": 32, "you": 31} {
		var list [][2]uint64
		for i := range stays {
			list = append(list, [2]uint64{10 + 2*i, 11 + 2*i})
		}
		data, err := json.Marshal(map[string]any{"epoch": epochOf(one.log, "acme").Text(), "place": 99, "member": true, "stays": list})
		is.NoErr(err)
		_, err = kept.Put(t.Context(), "acme", "conversation:"+who, 0, []table.Row{{Name: event.Profile{Type: "user", ID: who}.String(), Data: data}}, false)
		is.NoErr(err)
	}
	fresh := start(1000)
	is.Equal(fresh.back(t, c.Cursor, meQuery).resume(t), "partial")
	is.Equal(fresh.back(t, c.Cursor, "tenant=acme&profile=you").resume(t), "complete")
}

// What a hub forgets for want of room it remembers to have forgotten, also where it has
// no stream of the tenant, and where nobody belongs anywhere any more.
func TestForgottenStaysAreRememberedAsForgotten(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	start, _, _ := sharing(t, withState(256<<10))
	one, two := start(1000), start(1000)
	room := "/v1/tenants/acme/groups/r/members"
	one.changes(t, "PUT", room, `{"members":["stays"]}`)
	status, _ := two.answered(t, "GET", room, "") // so that it knows the tenant
	is.Equal(status, http.StatusOK)
	c := one.open(t, meQuery)
	for i := range 20 {
		var some strings.Builder // who come and go together
		for n := range 50 {
			fmt.Fprintf(&some, ",%q", fmt.Sprint("somebody-", i, "-", n))
		}
		one.changes(t, "PUT", room, `{"members":["stays"`+some.String()+`]}`)
		one.publish(t, "acme", "a.b", `{"kind":"tenant"}`, "1")
		one.changes(t, "PUT", room, `{"members":["stays"]}`)
		one.publish(t, "acme", "a.b", `{"kind":"tenant"}`, "1")
	}
	is.Equal(len(two.streams.Connections("acme", nil)), 0)
	is.True(two.quotas.State.Of("acme") < 256<<10)
	is.Equal(two.back(t, c.Cursor, meQuery).resume(t), "partial")
}
