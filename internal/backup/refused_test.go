package backup

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"

	"realtimehub/internal/broker"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/history/historytest"
	"realtimehub/internal/natstest"
	"realtimehub/internal/room"
	"realtimehub/internal/testkit"
)

// Memberships are kept though nothing was published: a restore does not replace them either.
func TestRestoreReplacesNoMembers(t *testing.T) {
	t.Parallel()
	file := backedUp(t)
	is := is.New(t)
	at := inFolder(t)
	at.hub(t, func(b *broker.Broker) { join(t, b, "acme") })
	_, err := at.command(t, "restore", file)
	is.True(err != nil && strings.Contains(err.Error(), "memberships"))
	at.hub(t, func(b *broker.Broker) {
		members := 0
		b.Rooms().Follow(func(_ string, _ history.Epoch, _ event.Room, list []room.Membership) { members += len(list) }, func(string) {})
		is.NoErr(b.Rooms().Attach(t.Context(), "acme"))
		is.Equal(members, 1)
	})
}

// No error repeats what a URL has of a secret.
func TestErrorsRepeatNoSecret(t *testing.T) {
	for _, url := range []string{"nats://hub:hunter%zz@127.0.0.1:4222", "nats://hub:hunter 2@127.0.0.1:4222", "nats://hub:hunter2@127.0.0.1:1"} {
		t.Run(url, func(t *testing.T) {
			is := is.New(t)
			err := Command(t.Context(), "backup", []string{filepath.Join(t.TempDir(), "file")}, []string{"REALTIME_NATS_URL=" + url}, io.Discard)
			is.True(err != nil)
			is.True(strings.HasPrefix(err.Error(), "REALTIME_NATS_URL: "))
			is.True(!strings.Contains(err.Error(), "hunter"))
		})
	}
}

// A flag is no file.
func TestFlagsAreNoFiles(t *testing.T) {
	is := is.New(t)
	at := inFolder(t)
	at.hub(t, func(*broker.Broker) {})
	t.Chdir(t.TempDir())
	for _, flag := range []string{"-h", "--help", "-f"} {
		_, err := at.command(t, "backup", flag)
		is.True(err != nil && strings.Contains(err.Error(), flag))
		_, err = os.Lstat(flag)
		is.True(os.IsNotExist(err))
	}
}

// join has ann belong to a room of a tenant.
func join(t *testing.T, b *broker.Broker, tenant string) {
	t.Helper()
	b.Rooms().Follow(func(string, history.Epoch, event.Room, []room.Membership) {}, func(string) {})
	testkit.Eventually(t, func() bool { return b.Rooms().Attach(t.Context(), tenant) == nil })
	testkit.Eventually(t, func() bool { // what is looked at may just change, or not be answered for
		now, err := b.Rooms().Now(t.Context(), tenant, talk)
		m := room.Membership{Profile: ann, Member: true, Stays: []history.Stay{{Room: talk, From: now.Now.Seq, Until: math.MaxUint64}}}
		return err == nil && b.Rooms().Change(t.Context(), tenant, talk, now, []room.Membership{m}, false) == nil
	})
}

// sealed is an event to all, as a hub appends it.
func sealed(payload string) *history.Entry {
	e := historytest.ToAll(payload)
	e.Event.Timestamp = time.Now()
	e.Envelope = e.Event.Seal()
	return e
}

// An event that is published just when a restore has found that nothing is kept is refused, or
// it is kept and the restore is refused: none is acknowledged and lost.
func TestRestoreLosesNoPublish(t *testing.T) {
	t.Parallel()
	file := backedUp(t)
	for name, start := range map[string]func() place{"folder": func() place { return inFolder(t) }, "servers": func() place { return onServers(t, 1) }} {
		for nth := 1; nth <= 2; nth++ { // question whether something is kept
			t.Run(fmt.Sprint(name, nth), func(t *testing.T) {
				is := is.New(t)
				at := start()
				at.hub(t, func(b *broker.Broker) {
					answers := make(chan error, 1)
					at.ask(t, func(nc *nats.Conn) {
						asked := 0
						seen, err := nc.Subscribe("$JS.API.STREAM.INFO."+prefix+"_table", func(msg *nats.Msg) {
							if !strings.Contains(string(msg.Data), "subjects_filter") {
								return // a hub's
							}
							if asked++; asked == nth {
								answers <- b.Log().Append(t.Context(), []*history.Entry{sealed(`"just then"`)})
							}
						})
						is.NoErr(err)
						is.NoErr(nc.Flush())
						_, refused := at.command(t, "restore", file)
						acknowledged := <-answers == nil
						is.NoErr(seen.Unsubscribe())
						kept := false
						testkit.Eventually(t, func() bool {
							page, err := b.Log().Read(t.Context(), "acme", history.Query{})
							kept = len(page.Entries) == 1
							return err == nil && (kept || !acknowledged)
						})
						t.Log("acknowledged:", acknowledged, "kept:", kept, "restore:", refused)
						is.True(refused == nil || strings.Contains(refused.Error(), "kept there already"))
					})
					historytest.Persist(t, b.Log(), historytest.ToAll(`"after"`)) // it can be written to
				})
			})
		}
	}
}

// So it is with who belongs to a room, when a restore has just found for the last time that
// nothing is kept.
func TestRestoreLosesNoMembership(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	file, on := backedUp(t), onServers(t, 1)
	on.hub(t, func(b *broker.Broker) {
		b.Rooms().Follow(func(string, history.Epoch, event.Room, []room.Membership) {}, func(string) {})
		is.NoErr(b.Rooms().Attach(t.Context(), "acme"))
		now, err := b.Rooms().Now(t.Context(), "acme", talk)
		is.NoErr(err)
		m := room.Membership{Profile: ann, Member: true, Stays: []history.Stay{{Room: talk, From: now.Now.Seq, Until: math.MaxUint64}}}
		var refused error
		join := sync.OnceFunc(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			refused = b.Rooms().Change(ctx, "acme", talk, now, []room.Membership{m}, false)
		})
		proxy := on.servers.Proxies(t)[0]
		proxy.Rule(func(m *natstest.Message) natstest.Verdict {
			if strings.HasPrefix(m.Subject, "$JS.API.STREAM.DELETE.") {
				join()
			}
			return natstest.Verdict{}
		})
		is.NoErr(Command(t.Context(), "restore", []string{file}, []string{"REALTIME_NATS_URL=" + proxy.URL()}, io.Discard))
		is.True(refused != nil)
	})
}
