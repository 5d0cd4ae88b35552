package journal

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/broker/stream"
	"realtimehub/internal/natstest"
)

// leaderless is what the servers answer while they elect a leader.
const leaderless = `{"error":{"code":503,"err_code":10008,"description":"JetStream system temporarily unavailable"}}`

// fault spoils an answer to a question that a reader puts, until it is spent.
type fault struct {
	spoils func(m *natstest.Message) (natstest.Verdict, bool) // an answer, and says that it has
	asks   string                                             // part of the question's subject and payload
	left   atomic.Int64
	inbox  sync.Map // where answers go that may be spoilt
}

func (f *fault) rule(m *natstest.Message) (v natstest.Verdict) {
	if !m.FromServer {
		if strings.Contains(m.Subject+" "+string(m.Data), f.asks) {
			f.inbox.Store(m.Reply, true)
		}
		return v
	}
	if _, ours := f.inbox.Load(m.Subject); !ours || f.left.Load() == 0 {
		return v
	}
	v, spoilt := f.spoils(m)
	if spoilt {
		f.left.Add(-1)
	}
	return v
}

// What a reader asks fails once, in a way that is soon over: all is read all the same, each
// message once and in order.
func TestWhatFailsOnceIsReadAgain(t *testing.T) {
	t.Parallel()
	const items = 100
	b := natstest.Start(t, 1)
	writer := open(t, b, 0, "writer", settings)
	var want []string
	last := &Item{}
	for i := range items {
		last = it("k", fmt.Sprint(i))
		writer.append(last)
		want = append(want, fmt.Sprint(i))
	}
	cut := settings.Prefix + ".cut." + stream.Token("k")
	for name, make := range map[string]func(*natstest.Proxy) *fault{
		"a part of the answer is lost": func(*natstest.Proxy) *fault {
			return &fault{asks: `"batch":512`, spoils: func(m *natstest.Message) (natstest.Verdict, bool) {
				lost := string(m.Data) == "50"
				return natstest.Verdict{Drop: lost}, lost
			}}
		},
		"nobody leads": func(*natstest.Proxy) *fault {
			return &fault{asks: cut, spoils: func(*natstest.Message) (natstest.Verdict, bool) {
				return natstest.Verdict{Instead: []byte(leaderless)}, true
			}}
		},
		"the connection comes back": func(p *natstest.Proxy) *fault {
			return &fault{asks: `"batch":512`, spoils: func(*natstest.Message) (natstest.Verdict, bool) {
				p.Cut()
				time.AfterFunc(400*time.Millisecond, p.Mend) // by then the leader has been asked in vain
				return natstest.Verdict{}, true
			}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			is := is.New(t)
			p := b.Proxies(t)[0]
			reader := openAt(t, p.URL(), name[:1], settings)
			f := make(p)
			f.left.Store(1)
			p.Rule(f.rule)
			var got []string
			is.NoErr(reader.Read(t.Context(), "k", 0, last.Seq, func(list []Message) bool {
				for _, m := range list {
					got = append(got, string(m.Data))
				}
				return true
			}))
			is.Equal(got, want)
			is.Equal(f.left.Load(), int64(0))
		})
	}
}

// It goes on failing: the reader gives up, and says what the broker said.
func TestWhoGivesUpSaysWhy(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	p := b.Proxies(t)[0]
	one := openAt(t, p.URL(), "one", settings)
	item := it("k", "a")
	one.append(item)
	f := &fault{asks: settings.Prefix + ".cut." + stream.Token("k"), spoils: func(*natstest.Message) (natstest.Verdict, bool) {
		return natstest.Verdict{Instead: []byte(leaderless)}, true
	}}
	f.left.Store(1 << 30)
	p.Rule(f.rule)
	read := func(ctx context.Context) error {
		return one.Read(ctx, "k", 0, item.Seq, func([]Message) bool { return true })
	}
	said, ok := errors.AsType[*jetstream.APIError](read(t.Context()))
	is.True(ok)
	is.Equal(int(said.ErrorCode), 10008)
	ctx, cancel := context.WithCancel(t.Context())
	p.Rule(func(m *natstest.Message) (v natstest.Verdict) {
		if v.Drop = strings.Contains(string(m.Data), f.asks); v.Drop {
			cancel()
		}
		return v
	})
	is.True(errors.Is(read(ctx), stream.ErrUnconfirmed)) // who does not wait any more
}

// The id of what is passed is kept for no shorter than it is known: a server that starts again
// knows of ids what is kept.
func TestAnIDIsKeptForAsLongAsItIsKnown(t *testing.T) {
	is := is.New(t)
	cfg := settings
	cfg.Window = 1900 * time.Millisecond
	one := open(t, natstest.Start(t, 1), 0, "one", cfg)
	one.append(&Item{Key: "k", ID: "p", Data: []byte("p"), Pass: true})
	var kept []string
	_, err := one.stream.Direct(t.Context(), stream.Get{Last: cfg.Prefix + ".id." + stream.Token("k")}, func(msg *nats.Msg) {
		kept = append(kept, msg.Header.Get(jetstream.MsgTTLHeader))
	})
	is.NoErr(err)
	is.Equal(kept, []string{"2"})
}
