package journal

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/broker/stream"
	"realtimehub/internal/natstest"
)

// A replica is behind, and so is who thinks that it leads still: a message that neither has
// yet is not taken for one that has gone, nor is that written down for all.
func TestWhatNobodyAskedHasYetIsNotGone(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	proxy := b.Proxies(t)[0]
	one := openAt(t, proxy.URL(), "one", settings)
	item := it("k", "a")
	one.append(item)
	proxy.Rule(func(m *natstest.Message) (v natstest.Verdict) {
		switch {
		case m.FromServer:
		case strings.Contains(m.Subject, "DIRECT.GET"):
			v.Instead = []byte(`{"seq":1,"next_by_subj":"test.ev.NOBODY","batch":1}`)
		case strings.Contains(m.Subject, "MSG.GET.test_journal") && strings.Contains(string(m.Data), fmt.Sprintf(`"seq":%d`, item.Seq)):
			v.Instead = []byte(`{"seq":999999999}`)
		}
		return v
	})
	_, err := one.Span(t.Context(), "k")
	is.True(err != nil)
	proxy.Rule(nil)
	span := one.spanOf("k")
	is.True(span.Oldest < item.Seq)
}

// What comes while what was before it cannot be read back is held, but no more bytes of it
// than of what waits elsewhere; all of it comes in the end.
func TestWhatIsHeldIsBounded(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	proxy := b.Proxies(t)[0]
	one, two := open(t, b, 0, "one", settings), openAt(t, proxy.URL(), "two", settings)
	two.attach("k")
	f := two.feed("k")
	proxy.Rule(func(m *natstest.Message) (v natstest.Verdict) {
		v.Drop = isLive(m, "lost") || strings.Contains(m.Subject, "DIRECT.GET") || strings.Contains(m.Subject, "MSG.GET")
		return v
	})
	const each = 512 << 10
	want := []string{"lost"}
	one.append(it("k", "lost"))
	last := &Item{}
	for i := range 2*mostReadyBytes/each + 1 {
		last = &Item{Key: "k", ID: fmt.Sprint(i), Data: []byte(fmt.Sprintf("%d%s", i, strings.Repeat("x", each)))}
		one.append(last)
		want = append(want, string(last.Data))
	}
	held := 0
	await(t, func() bool { // the last has come
		f.mu.Lock()
		defer f.mu.Unlock()
		held = 0
		for _, m := range f.held {
			held += len(m.Data)
		}
		return len(f.held) > 0 && f.held[len(f.held)-1].Seq == last.Seq
	})
	is.True(held <= mostReadyBytes)
	proxy.Rule(nil)
	two.await("k", strings.Join(want, " "))
}

// So it is with what is not kept and goes with something that has yet to come.
func TestWhatGoesWithWhatIsMissingIsBounded(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	proxy := b.Proxies(t)[0]
	one, two := open(t, b, 0, "one", settings), openAt(t, proxy.URL(), "two", settings)
	two.attach("k")
	f := two.feed("k")
	passed := make(chan struct{})
	proxy.Rule(func(m *natstest.Message) (v natstest.Verdict) {
		if m.FromServer && strings.HasSuffix(m.Subject, ".pass") && m.Header.Get("Last") != "" {
			close(passed)
		}
		v.Drop = m.FromServer && strings.HasSuffix(m.Subject, ".ev") || strings.Contains(m.Subject, "DIRECT.GET") || strings.Contains(m.Subject, "MSG.GET")
		return v
	})
	const each = 512 << 10
	for i := range 2 * mostReadyBytes / each {
		one.append(it("k", fmt.Sprint(i)), &Item{Key: "k", Data: make([]byte, each), Pass: true})
	}
	is.NoErr(one.nc.PublishMsg(stream.NewMessage(settings.Prefix+".live."+stream.Token("k")+".pass", nil, "Last", "yes")))
	<-passed
	await(t, func() bool { // what came before that is taken
		two.mu.Lock()
		defer two.mu.Unlock()
		return slices.Contains(two.got["k"], "")
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	waits := 0
	for _, p := range f.early {
		waits += len(p.item.Data)
	}
	is.True(waits > 0)
	is.True(waits <= mostReadyBytes)
}

// repeated has one append an item under an id, and gives another of that id, and who is to append it
// through a proxy.
func repeated(t *testing.T) (two *user, proxy *natstest.Proxy, first, again *Item) {
	t.Helper()
	b := natstest.Start(t, 1)
	proxy = b.Proxies(t)[0]
	one := open(t, b, 0, "one", settings)
	first, again = it("k", "a"), it("k", "b")
	first.ID, again.ID = "id", "id"
	one.append(first)
	return openAt(t, proxy.URL(), "two", settings), proxy, first, again
}

// A duplicate's answer has the time of its first, though the replica that is asked for that is behind.
func TestADuplicateOfWhatAReplicaLacks(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	two, proxy, first, again := repeated(t)
	proxy.Rule(func(m *natstest.Message) (v natstest.Verdict) {
		if !m.FromServer && strings.Contains(m.Subject, "DIRECT.GET") {
			v.Instead = []byte(`{"seq":999999999}`)
		}
		return v
	})
	two.append(again)
	is.True(again.Duplicate)
	is.Equal(again.Seq, first.Seq)
	is.Equal(again.First, first.Data)
	is.True(!again.At.IsZero())
}

// Whoever repeats what is there is not told another time than the first's where that cannot be read
// now, but that it is to be asked again.
func TestADuplicateWhoseFirstCannotBeRead(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	two, proxy, first, again := repeated(t)
	var down atomic.Bool
	down.Store(true)
	proxy.Rule(func(m *natstest.Message) (v natstest.Verdict) {
		v.Drop = down.Load() && !m.FromServer && (strings.Contains(m.Subject, "DIRECT.GET") || strings.Contains(m.Subject, "MSG.GET"))
		return v
	})
	is.True(errors.Is(two.Append(t.Context(), []*Item{again}), stream.ErrUnconfirmed))
	down.Store(false)
	two.append(again)
	is.True(again.Duplicate)
	is.Equal(again.First, first.Data)
}
