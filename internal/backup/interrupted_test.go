package backup

import (
	"context"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/broker"
	"realtimehub/internal/history/historytest"
	"realtimehub/internal/natstest"
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
	is.True(strings.Contains(err.Error(), "something of the restore is left there: the stream "+prefix+"_restoring"))
}
