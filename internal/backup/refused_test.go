package backup

import (
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/broker"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/room"
)

// Memberships are kept though nothing was published: a restore does not replace them either.
func TestRestoreReplacesNoMembers(t *testing.T) {
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
	is := is.New(t)
	b.Rooms().Follow(func(string, history.Epoch, event.Room, []room.Membership) {}, func(string) {})
	is.NoErr(b.Rooms().Attach(t.Context(), tenant))
	now, err := b.Rooms().Now(t.Context(), tenant, talk)
	is.NoErr(err)
	m := room.Membership{Profile: ann, Member: true, Stays: []history.Stay{{Room: talk, From: now.Now.Seq, Until: math.MaxUint64}}}
	is.NoErr(b.Rooms().Change(t.Context(), tenant, talk, now, []room.Membership{m}, false))
}
