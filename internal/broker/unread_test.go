package broker

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/matryer/is"

	"realtimehub/internal/broker/peers"
	"realtimehub/internal/broker/stream"
	"realtimehub/internal/broker/table"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/natstest"
	"realtimehub/internal/outbox"
	"realtimehub/internal/testkit"
)

// What another hub kept or told and this one cannot read is counted, of whatever kind; what stands
// beside it is taken in.
func TestWhatCannotBeReadIsCounted(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	logged := &testkit.Buffer{}
	b := join(t, natstest.Start(t, 1).URL(0), "test", func(cfg *Config) { cfg.Logger = slog.New(slog.NewTextHandler(logged, nil)) })
	var told toldRooms
	b.rooms.Follow(told.change, func(string) {})
	counted := func() int64 { return b.Log().Stats().Faults[history.FaultUnread] }
	odd := []byte("as another version has it")

	r := event.Room{Kind: event.KindGroup, ID: "g"}
	_, err := b.rooms.table.Put(t.Context(), "acme", groupOf(r), 0, []table.Row{{Name: alice.String(), Data: odd}, {Name: bob.String(), Data: []byte(`{"member":true}`)}}, false)
	is.NoErr(err)
	_, err = b.rooms.table.Put(t.Context(), "acme", "odd", 0, []table.Row{{Name: bob.String(), Data: []byte(`{"member":true}`)}}, false)
	is.NoErr(err)
	is.NoErr(b.rooms.Attach(t.Context(), "acme"))
	is.Equal(counted(), int64(3)) // a row, and both of the odd group
	is.True(told.rooms.Has(r, bob) && !told.rooms.Has(r, alice))

	var sessions toldSessions
	b.peers.Follow(&sessions)
	b.peers.changed(peers.Change{Topic: "acme", Ops: []peers.Op{{ID: uuid.New(), Data: []byte(`{"p":"user:bob"}`)}, {ID: uuid.New(), Data: odd}}})
	is.Equal(sessions.last.Profile, bob)
	b.peers.told("acme", odd)
	is.Equal(counted(), int64(5))

	is.NoErr(b.nc.Publish("test.outbox.head."+stream.Token("acme"), odd))
	testkit.Eventually(t, func() bool {
		_, err := b.Outbox().Read(t.Context(), "acme", outbox.Query{Limit: 1})
		return err != nil && counted() > 5
	})
	is.True(strings.Contains(logged.String(), "cannot be read"))
}
