package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/broker/journal"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/history/historytest"
	"realtimehub/internal/natstest"
)

const chunkBytes = 64 << 10 // that a stream reads at a time

// parts counts the bytes of messages that the broker is asked for and tells.
type parts struct{ bytes, questions atomic.Int64 }

func (p *parts) rule(m *natstest.Message) (v natstest.Verdict) {
	switch {
	case m.FromServer && m.Header.Get("Nats-Num-Pending") != "":
		p.bytes.Add(int64(len(m.Data)))
	case !m.FromServer && strings.HasPrefix(m.Subject, "$JS.API.DIRECT.GET."):
		p.questions.Add(1)
	}
	return v
}

// What is too large to be brought near is read from the broker about once, however small
// the pieces are in which a client takes it.
func TestALargeResumeIsReadOnce(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	proxy := natstest.StartProxy(t, b.URL(0))
	prefix := natstest.Prefix()
	writer := join(t, b.URL(0), prefix).Log()
	limits := testLimits
	limits.Total = 1 << 20
	log := join(t, proxy.URL(), prefix, within(limits)).Log()
	text := strings.Repeat("x", 6000)
	const events = 850 // 5 MiB
	for i := range events {
		e := historytest.To("acme", fmt.Sprint("e", i), event.ToTenant())
		e.Event.Payload = []byte(`"` + text + `"`)
		historytest.Persist(t, writer, e)
	}
	head, err := historytest.Answered(func() (history.Cursor, error) { return log.Attach(t.Context(), "acme") })
	is.NoErr(err)
	var p parts
	proxy.Rule(p.rule)
	from, err := historytest.Answered(func() (history.Cursor, error) { return log.Find(t.Context(), "acme", "", nil) })
	is.NoErr(err)
	read := 0
	for place := from.Seq; place < head.Seq; {
		page, err := historytest.Answered(func() (history.Page, error) {
			return log.Read(t.Context(), "acme", history.Query{After: place, Bytes: chunkBytes})
		})
		is.NoErr(err)
		place = page.Next.Seq
		read += len(page.Entries)
	}
	is.Equal(read, events)
	t.Logf("%d bytes, %d questions", p.bytes.Load(), p.questions.Load())
	is.True(p.bytes.Load() < 5*events*int64(len(text)))
}

// What was told of a tenant in the moment in which the last stream left leaves a shelf that
// nobody keeps up: it says nothing about where the history ends.
func TestAHistoryIsReadToItsEnd(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := join(t, natstest.Start(t, 1).URL(0), natstest.Prefix())
	log := b.Log()
	for i := range 3 {
		historytest.Persist(t, log, historytest.To("acme", fmt.Sprint(i), event.ToTenant()))
	}
	head, err := historytest.Answered(func() (history.Cursor, error) { return log.Attach(t.Context(), "acme") })
	is.NoErr(err)
	log.Detach("acme")
	b.log.handle("acme", []*journal.Item{{Key: "acme", Seq: head.Seq - 2, Own: historytest.To("acme", "0", event.ToTenant())}})
	page, err := historytest.Answered(func() (history.Page, error) { return log.Read(t.Context(), "acme", history.Query{Bytes: chunkBytes}) })
	is.NoErr(err)
	is.Equal(len(page.Entries), 3)
	is.Equal(page.Next, head)
}

// farFrom is a log that has followed a tenant since so many events were there, of which it has none
// near, and the line to its broker.
func farFrom(t *testing.T, events int) (log history.Log, line *natstest.Proxy) {
	t.Helper()
	b := natstest.Start(t, 1)
	line = natstest.StartProxy(t, b.URL(0))
	prefix := natstest.Prefix()
	writer := join(t, b.URL(0), prefix).Log()
	log = join(t, line.URL(), prefix).Log()
	for i := range events {
		historytest.Persist(t, writer, historytest.To("acme", fmt.Sprint(i), event.ToTenant()))
	}
	if _, err := historytest.Answered(func() (history.Cursor, error) { return log.Attach(t.Context(), "acme") }); err != nil {
		t.Fatal(err)
	}
	return log, line
}

// Many come back at once to a tenant of which the hub has nothing near, and the broker does
// not answer: they wait for one question, and none for the other's.
func TestWhoComesBackSharesTheWait(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	const events = 50
	log, proxy := farFrom(t, events)
	var questions atomic.Int64
	proxy.Rule(func(m *natstest.Message) (v natstest.Verdict) {
		if !m.FromServer && (strings.HasPrefix(m.Subject, "$JS.API.DIRECT.GET.") || strings.HasPrefix(m.Subject, "$JS.API.STREAM.MSG.GET.")) {
			questions.Add(1)
			v.Drop = true
		}
		return v
	})
	const back = 200
	var wg sync.WaitGroup
	for range back {
		wg.Go(func() {
			_, err := log.Read(t.Context(), "acme", history.Query{Bytes: chunkBytes})
			if !errors.Is(err, history.ErrUnconfirmed) {
				t.Error(err)
			}
		})
	}
	// Who is no longer interested is not kept.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := log.Read(ctx, "acme", history.Query{Bytes: chunkBytes})
	is.True(err != nil)
	wg.Wait()
	is.True(questions.Load() < back/4) // which would be minutes, one after the other
	proxy.Rule(nil)
	page, err := historytest.Answered(func() (history.Page, error) { return log.Read(t.Context(), "acme", history.Query{Bytes: chunkBytes}) })
	is.NoErr(err)
	is.Equal(len(page.Entries), 50)
}

// Many come back at once, and a part of what the broker answers is lost: all who share the
// answer have everything.
func TestALostPartEndsNoResume(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	const events, back = 50, 20
	log, proxy := farFrom(t, events)
	var lost atomic.Bool
	proxy.Rule(func(m *natstest.Message) (v natstest.Verdict) {
		v.Drop = m.FromServer && m.Header.Get("Nats-Num-Pending") != "" && lost.CompareAndSwap(false, true)
		return v
	})
	var wg sync.WaitGroup
	for range back {
		wg.Go(func() {
			page, err := historytest.Answered(func() (history.Page, error) { return log.Read(t.Context(), "acme", history.Query{Bytes: chunkBytes}) })
			if err != nil || len(page.Entries) != events {
				t.Errorf("%d events, %v", len(page.Entries), err)
			}
		})
	}
	wg.Wait()
	is.True(lost.Load())
}

// A history that nobody follows is read from the broker, and any one of its answers says that it
// cannot just now: the read has everything.
func TestAPassingErrorEndsNoRead(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	const events = 50
	log, proxy := farFrom(t, events)
	log.Detach("acme")
	kinds := []string{"stream_msg_get_response", "stream_info_response"}
	for which, failed := int64(1), true; failed; which++ {
		var answers atomic.Int64
		proxy.Rule(func(m *natstest.Message) (v natstest.Verdict) {
			for _, kind := range kinds {
				if m.FromServer && strings.Contains(string(m.Data), kind) && answers.Add(1) == which {
					v.Instead = []byte(`{"type":"io.nats.jetstream.api.v1.` + kind + `","error":{"code":503,"err_code":10008,"description":"JetStream system temporarily unavailable"}}`)
				}
			}
			return v
		})
		page, err := log.Read(t.Context(), "acme", history.Query{Bytes: chunkBytes})
		is.NoErr(err)
		is.Equal(len(page.Entries), events)
		failed = answers.Load() >= which
		is.True(failed || which > 2)
	}
}

// The broker answers no more while a history is read from it: what it has answered is not lost.
func TestWhatWasReadBeforeAnErrorIsKept(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	proxy := natstest.StartProxy(t, b.URL(0))
	log := join(t, proxy.URL(), natstest.Prefix()).Log()
	text := strings.Repeat("x", 6000)
	const events = 100 // a part has some 20
	var first uint64
	for i := range events {
		e := historytest.To("acme", fmt.Sprint("e", i), event.ToTenant())
		e.Event.Payload = []byte(`"` + text + `"`)
		historytest.Persist(t, log, e)
		if i == 0 {
			first = e.Cursor.Seq
		}
	}
	ctx, giveUp := context.WithCancel(t.Context())
	defer giveUp()
	proxy.Rule(func(m *natstest.Message) (v natstest.Verdict) {
		var asked struct{ Seq uint64 }
		isRead := !m.FromServer && strings.Contains(m.Subject, ".GET.") && strings.HasSuffix(m.Subject, "_journal")
		if isRead && json.Unmarshal(m.Data, &asked) == nil && asked.Seq > first {
			v.Drop = true // some were answered, or the first would be asked for again
			giveUp()
		}
		return v
	})
	page, err := log.Read(ctx, "acme", history.Query{Bytes: 1 << 20})
	is.NoErr(err)
	is.True(len(page.Entries) > 0 && len(page.Entries) < events)
	is.True(ctx.Err() != nil)
	proxy.Rule(nil)
	rest, err := historytest.Answered(func() (history.Page, error) {
		return log.Read(t.Context(), "acme", history.Query{After: page.Next.Seq, Bytes: 1 << 20})
	})
	is.NoErr(err)
	is.Equal(len(page.Entries)+len(rest.Entries), events)
}

// The hub asks a server that is behind, and its client has seen more than that knows of:
// it is not sent back to an earlier place, and told to come again.
func TestAnOldAnswerRewindsNobody(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	proxy := natstest.StartProxy(t, b.URL(0))
	prefix := natstest.Prefix()
	writer := join(t, b.URL(0), prefix).Log()
	log := join(t, proxy.URL(), prefix).Log()
	historytest.Persist(t, writer, historytest.To("acme", `"early"`, event.ToTenant()))
	var mu sync.Mutex
	var old []byte
	proxy.Rule(func(m *natstest.Message) (v natstest.Verdict) {
		mu.Lock()
		defer mu.Unlock()
		switch info := m.FromServer && strings.Contains(string(m.Data), "stream_info_response") && strings.Contains(string(m.Data), `"`+prefix+`_journal"`); {
		case strings.HasPrefix(m.Subject, prefix+".live."): // nor does this hub hear what comes
			v.Drop = true
		case info && old == nil:
			old = m.Data
		case info:
			v.Instead = old
		}
		return v
	})
	asked := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return old != nil
	}
	for deadline := time.Now().Add(time.Minute); !asked(); time.Sleep(time.Millisecond) {
		is.True(time.Now().Before(deadline))
	}
	late := historytest.To("acme", `"late"`, event.ToTenant())
	historytest.Persist(t, writer, late)
	last := late.Cursor
	_, err := historytest.Answered(func() (history.Cursor, error) { return log.Attach(t.Context(), "acme") })
	is.NoErr(err)
	_, err = log.Find(t.Context(), "acme", last.String(), nil)
	is.True(errors.Is(err, history.ErrUnconfirmed)) // which is 503
	proxy.Rule(nil)
	found, err := historytest.Answered(func() (history.Cursor, error) { return log.Find(t.Context(), "acme", last.String(), nil) })
	is.NoErr(err)
	is.Equal(found, last)
}

// One hub knows that the history is another, and a client comes from there to one that does
// not yet: it is told of no gap.
func TestACursorOfAHistoryThatAnotherHubKnows(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	proxy := natstest.StartProxy(t, b.URL(0))
	prefix := natstest.Prefix()
	writer := join(t, b.URL(0), prefix).log
	log := join(t, proxy.URL(), prefix).log
	historytest.Persist(t, writer, historytest.To("acme", `"early"`, event.ToTenant()))
	before := writer.journal.Epoch()
	proxy.Rule(func(m *natstest.Message) (v natstest.Verdict) {
		v.Drop = strings.Contains(m.Subject, "KV_"+prefix)
		return v
	})
	js, err := jetstream.New(b.Connect(t, 0))
	is.NoErr(err)
	kv, err := js.KeyValue(t.Context(), prefix+"_epoch")
	is.NoErr(err)
	_, err = kv.Put(t.Context(), "epoch", []byte("1")) // as who has seen a loss does
	is.NoErr(err)
	for deadline := time.Now().Add(time.Minute); writer.journal.Epoch() == before; time.Sleep(time.Millisecond) {
		is.True(time.Now().Before(deadline))
	}
	late := historytest.To("acme", `"late"`, event.ToTenant())
	historytest.Persist(t, writer, late)
	is.Equal(log.journal.Epoch(), before)
	proxy.Rule(nil)
	found, err := historytest.Answered(func() (history.Cursor, error) { return log.Find(t.Context(), "acme", late.Cursor.String(), nil) })
	is.NoErr(err)
	is.Equal(found.Seq, late.Cursor.Seq)
}

// The hubs make cursors with one key, so that each reads what another has made.
func TestAllHubsHaveOneKey(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	url, prefix := natstest.Start(t, 1).URL(0), natstest.Prefix()
	secrets := map[string]bool{}
	for range 3 {
		secrets[join(t, url, prefix).log.journal.Secret()] = true
	}
	is.Equal(len(secrets), 1)
	for secret := range secrets {
		is.True(len(secret) >= 32)
	}
}
