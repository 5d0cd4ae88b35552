package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"

	"realtimehub/internal/broker"
	"realtimehub/internal/broker/stream"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/history/historytest"
	"realtimehub/internal/natstest"
	"realtimehub/internal/room"
)

// interrupted restores a file through a proxy, and is interrupted by the first message to a
// subject, which still arrives. lost says which messages do not.
func (p place) interrupted(t *testing.T, file, at string, lost func(*natstest.Message) bool) error {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	proxy := p.servers.Proxies(t)[0]
	proxy.Rule(func(m *natstest.Message) natstest.Verdict {
		if !m.FromServer && m.Subject == at {
			cancel()
		}
		return natstest.Verdict{Drop: lost(m)}
	})
	return Command(ctx, "restore", []string{file}, []string{"REALTIME_NATS_URL=" + proxy.URL()}, io.Discard)
}

func none(*natstest.Message) bool { return false }

// A restore that is interrupted before it has removed anything, wherever, leaves all as it was.
func TestRestoreThatIsInterruptedAtOnce(t *testing.T) {
	t.Parallel()
	file := backedUp(t)
	for _, at := range []string{"CREATE." + prefix + "_restoring", "INFO." + prefix + "_journal", "INFO." + prefix + "_table", "UPDATE." + prefix + "_journal"} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			is := is.New(t)
			on := onServers(t, 1)
			on.hub(t, func(b *broker.Broker) {
				err := on.interrupted(t, file, "$JS.API.STREAM."+at, none)
				is.True(err != nil && strings.Contains(err.Error(), "restore was interrupted, and nothing is left of it"))
				is.Equal(on.streamsOf(t), three(1)) // and no mark
				historytest.Persist(t, b.Log(), historytest.ToAll(`"after"`))
			})
		})
	}
}

// The answer that the history is shut is lost: it is opened again.
func TestRestoreThatIsNotTold(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	file, on := backedUp(t), onServers(t, 1)
	on.hub(t, func(b *broker.Broker) {
		var answer atomic.Value // the subject of the first
		err := on.interrupted(t, file, "never", func(m *natstest.Message) bool {
			if m.Subject == "$JS.API.STREAM.UPDATE."+prefix+"_journal" {
				answer.CompareAndSwap(nil, m.Reply)
			}
			return m.FromServer && m.Subject == answer.Load()
		})
		is.True(err != nil && strings.Contains(err.Error(), errNoAnswer.Error()))
		is.Equal(on.streamsOf(t), three(1))
		historytest.Persist(t, b.Log(), historytest.ToAll(`"after"`))
	})
}

// A restore that cannot take its mark away says that it is left.
func TestRestoreThatLeavesItsMark(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	file, on := backedUp(t), onServers(t, 1)
	on.hub(t, func(*broker.Broker) {})
	err := on.interrupted(t, file, "$JS.API.STREAM.INFO."+prefix+"_journal", func(m *natstest.Message) bool {
		return strings.HasPrefix(m.Subject, "$JS.API.STREAM.DELETE.")
	})
	is.True(err != nil && strings.Contains(err.Error(), "restore was interrupted: "))
	is.True(strings.Contains(err.Error(), "something of the restore may be left there: the stream "+prefix+"_restoring"))
}

// A restore that has ended well, but cannot take its mark away, says both.
func TestRestoreThatHasEndedAndLeavesItsMark(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	file, on := backedUp(t), onServers(t, 1)
	err := on.interrupted(t, file, "never", func(m *natstest.Message) bool {
		return m.Subject == "$JS.API.STREAM.DELETE."+prefix+"_restoring"
	})
	is.True(err != nil && strings.Contains(err.Error(), "all was restored, but something of the restore may be left there: the stream "+prefix+"_restoring"))
	on.hub(t, func(b *broker.Broker) { whole(t, b, false) })
}

// A restore that could not remove what it had brought says so, also if it is interrupted before it
// tries again.
func TestRestoreThatIsInterruptedBeforeItTriesAgain(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	proxy := onServers(t, 1).servers.Proxies(t)[0]
	var mu sync.Mutex
	answer := "" // the subject of that to the first stream's end
	proxy.Rule(func(m *natstest.Message) (v natstest.Verdict) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case answer == "" && strings.HasPrefix(m.Subject, "$JS.SNAPSHOT.RESTORE.") && len(m.Data) == 0:
			answer = m.Reply
		case answer != "" && m.Subject == answer:
			v.Instead = fmt.Appendf(nil, `{"error":{"code":500,"err_code":%d,"description":"what it has does not match store"}}`, codeNotRestored)
		case answer != "" && strings.HasPrefix(m.Subject, "$JS.API.STREAM.DELETE."):
			cancel()
			v.Drop = true
		}
		return v
	})
	err := Command(ctx, "restore", []string{backedUp(t)}, []string{"REALTIME_NATS_URL=" + proxy.URL()}, io.Discard)
	is.True(errors.Is(err, errUnfinished) && errors.Is(err, stream.ErrLeft))
	is.True(strings.Contains(err.Error(), "restore was interrupted: "))
}

// A restore is killed, or cut off, while it opens what it has brought, the history last. What a hub
// acknowledges then is still there when the restore is repeated, and so is all else.
func TestRestoreThatIsCutOffWhileItOpens(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	file, on := backedUp(t), onServers(t, 1)
	on.hub(t, func(b *broker.Broker) {
		is.True(on.killed(t, file, opensTheHistory) != nil)
		join(t, b, "acme")
		other := filepath.Join(t.TempDir(), "other")
		from := inFolder(t)
		from.hub(t, func(b *broker.Broker) { historytest.Persist(t, b.Log(), historytest.ToAll("1")) })
		_, err := from.command(t, "backup", other)
		is.NoErr(err)
		_, err = on.command(t, "restore", other)
		is.True(errors.Is(err, errOther))
		said, err := on.command(t, "restore", file)
		is.NoErr(err)
		is.True(strings.Contains(said, " records "))
		is.Equal(on.streamsOf(t), three(1)) // and no mark
	})
	on.hub(t, func(b *broker.Broker) {
		members := 0
		b.Rooms().Follow(func(_ string, _ history.Epoch, _ event.Room, list []room.Membership) { members += len(list) }, func(string) {})
		is.NoErr(b.Rooms().Attach(t.Context(), "acme"))
		is.Equal(members, 1)
	})
	on.hub(t, func(b *broker.Broker) { whole(t, b, false) })
}

// opensTheHistory is a message of a restore that does so.
func opensTheHistory(m *natstest.Message) bool {
	return m.Subject == "$JS.API.STREAM.UPDATE."+prefix+"_journal" && !strings.Contains(string(m.Data), shutSubject(prefix, prefix+"_journal"))
}

// killed restores a file, and is cut off from its server before a message.
func (p place) killed(t *testing.T, file string, before func(*natstest.Message) bool) error {
	t.Helper()
	is := is.New(t)
	text, err := os.ReadFile(file)
	is.NoErr(err)
	proxy := p.servers.Proxies(t)[0]
	nc := natstest.Connect(t, proxy.URL(), nats.NoReconnect())
	proxy.Rule(func(m *natstest.Message) natstest.Verdict {
		ends := before(m)
		if ends {
			nc.Close()
		}
		return natstest.Verdict{Drop: ends}
	})
	_, err = Restore(t.Context(), nc, prefix, p.replicas, bytes.NewReader(text))
	return err
}

// A restore is killed once hubs can keep nothing, and before it has removed anything: that is no
// backup either, until hubs open it again.
func TestBackupOfWhatIsShut(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	file, on := backedUp(t), onServers(t, 1)
	on.hub(t, func(*broker.Broker) {})
	is.True(on.killed(t, file, func(m *natstest.Message) bool { return strings.HasPrefix(m.Subject, "$JS.API.STREAM.DELETE.") }) != nil)
	_, err := on.command(t, "backup", filepath.Join(t.TempDir(), "file"))
	is.True(errors.Is(err, errHalf))
	on.hub(t, func(*broker.Broker) {})
	_, err = on.command(t, "backup", filepath.Join(t.TempDir(), "file"))
	is.NoErr(err)
}
