package peers

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"

	"realtimehub/internal/natstest"
)

// member is one process, and what it knows of the others.
type member struct {
	*Peers
	t *testing.T

	mu sync.Mutex
	// Guarded by mu.
	own    map[ID][]byte
	listed int           // how often all of own was asked for
	seen   map[ID]string // others' items
	whose  map[ID]string
	news   []string // what was told, and was not known
	casts  []string
	at     time.Time
	cut    error        // what Sure says
	taking func(Change) // called before a change is taken in; nil: nothing is
}

func (m *member) sure() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cut
}

func join(t *testing.T, b *natstest.Broker, node string) *member {
	t.Helper()
	return joinAt(t, b.URL(0), node)
}

// joinAt is join at a server's address.
func joinAt(t *testing.T, url, node string) *member {
	t.Helper()
	m := &member{t: t, own: map[ID][]byte{}, seen: map[ID]string{}, whose: map[ID]string{}}
	nc := natstest.Connect(t, url, nats.NoEcho(), nats.ReconnectWait(50*time.Millisecond), nats.MaxReconnects(-1))
	p, err := Start(nc, Config{
		Prefix: "test", Node: node, Able: nc.IsConnected, Sure: func(context.Context) error { return m.sure() }, Logger: slog.New(slog.DiscardHandler),
		Items: func(string) (ops []Op) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.listed++
			for id, data := range m.own {
				ops = append(ops, Op{id, data})
			}
			return ops
		},
		Any: func(string) bool {
			m.mu.Lock()
			defer m.mu.Unlock()
			return len(m.own) > 0
		},
		Changed: func(c Change) {
			m.mu.Lock()
			taking := m.taking
			m.mu.Unlock()
			if taking != nil {
				taking(c)
			}
			m.mu.Lock()
			defer m.mu.Unlock()
			for _, op := range c.Ops {
				if op.Data == nil {
					delete(m.seen, op.ID)
					delete(m.whose, op.ID)
				} else {
					m.seen[op.ID] = string(op.Data)
					m.whose[op.ID] = c.Node
				}
				if !c.Known {
					m.news = append(m.news, fmt.Sprintf("%d=%s", op.ID[0], op.Data))
				}
			}
			if !c.At.IsZero() {
				m.at = c.At
			}
		},
		Has: func(_, node string) (ids []ID) {
			m.mu.Lock()
			defer m.mu.Unlock()
			for id, of := range m.whose {
				if of == node {
					ids = append(ids, id)
				}
			}
			return ids
		},
		Told: func(_ string, data []byte) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.casts = append(m.casts, string(data))
		},
		Serve:    func(data []byte) []byte { return append([]byte(node+" "), data...) },
		Resynced: func() {},
	})
	if err != nil {
		t.Fatal(err)
	}
	m.Peers = p
	return m
}

func (m *member) tell(n byte, data string) {
	m.mu.Lock()
	id := ID{n}
	if m.own[id] = []byte(data); data == "" {
		delete(m.own, id)
	}
	m.mu.Unlock()
	op := Op{ID: id}
	if data != "" {
		op.Data = []byte(data)
	}
	m.Tell("topic", op)
}

func (m *member) hold() {
	m.t.Helper()
	if err := m.Hold(m.t.Context(), "topic"); err != nil {
		m.t.Fatal(err)
	}
}

// has is what others have, as far as it knows.
func (m *member) has() map[ID]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.seen)
}

// ask is Ask, again while a busy machine's other is silent.
func (m *member) ask(node, data string) (answer string, err error) {
	m.t.Helper()
	eventually(m.t, func() bool {
		var text []byte
		text, err = m.Ask(m.t.Context(), node, []byte(data))
		answer = string(text)
		return errorsOf(err) != "silent"
	})
	return answer, err
}

// await waits until all that others have is as wanted.
func (m *member) await(want map[ID]string) {
	m.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		m.mu.Lock()
		same := maps.Equal(m.seen, want)
		m.mu.Unlock()
		if same {
			return
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("it has %d items, not %d", len(m.seen), len(want))
		}
	}
}

// told is what was news so far.
func (m *member) told() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.news)
}

// A beat tells how far topics are that have changed lately, and looks at none of their items.
// The place of a topic is forgotten with its last item.
func TestABeatListsNothing(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	one := join(t, natstest.Start(t, 1), "one")
	defer one.Close()
	known := func() bool {
		one.Peers.mu.Lock()
		defer one.Peers.mu.Unlock()
		_, known := one.version["topic"]
		return known
	}
	one.tell(1, "a")
	one.flush()
	for range 3 {
		one.beat()
	}
	is.True(known())
	one.tell(1, "")
	one.flush()
	for range 3 {
		one.beat()
	}
	is.True(!known())
	one.mu.Lock()
	defer one.mu.Unlock()
	is.Equal(one.listed, 0)
}

// What there is when a topic is taken up is known when Hold returns, and is no news;
// what changes later is.
func TestHold(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	one, two, late := join(t, b, "one"), join(t, b, "two"), join(t, b, "late")
	defer late.Close()
	defer two.Close()
	one.tell(1, "a")
	two.tell(2, "b")
	one.flush() // else what a snapshot has is told once more
	two.flush()
	eventually(t, func() bool {
		begun := time.Now()
		late.hold()
		complete, _ := late.complete("topic")
		if !complete {
			is.True(time.Since(begun) >= holdTimeout) // a busy machine's others were too late
			late.Release("topic")
		}
		return complete
	})
	is.Equal(late.has(), map[ID]string{{1}: "a", {2}: "b"})
	is.Equal(late.told(), nil)
	one.tell(3, "c")
	one.tell(1, "")
	late.await(map[ID]string{{2}: "b", {3}: "c"})
	is.Equal(late.told(), []string{"3=c", "1="})
	is.NoErr(two.Cast("topic", []byte("hello")))
	answer, err := late.ask("one", "who")
	is.NoErr(err)
	is.Equal(answer, "one who")
	eventually(t, func() bool {
		answers, silent := one.AskAll(t.Context(), []byte("x"))
		is.Equal(len(answers)+len(silent), 2)
		return len(silent) == 0
	})
	_, err = one.ask("nobody", "")
	is.Equal(errorsOf(err), "gone") // it is not waited for
	before := time.Now()
	one.Close() // says good-bye
	late.await(map[ID]string{{2}: "b"})
	is.True(!late.at.Before(before))
	is.Equal(late.casts, []string{"hello"})
	is.Equal(late.Nodes(), []string{"two"})
	late.Release("topic")
	two.tell(4, "d")
	is.NoErr(two.nc.Flush())
	is.NoErr(late.nc.Flush())
	is.Equal(late.has(), map[ID]string{{2}: "b"}) // nobody asks for it any more
}

// What others have is not complete before the last of it is taken in.
func TestCompleteOnceTakenIn(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	one, other := join(t, b, "one"), join(t, b, "other")
	defer one.Close()
	defer other.Close()
	other.tell(1, "a")
	asked := make(chan [2]bool, 1)
	var first sync.Once // more is told when the other leaves, and nobody asks then
	one.mu.Lock()
	one.taking = func(Change) {
		first.Do(func() {
			complete, awaited := one.complete("topic")
			asked <- [2]bool{complete, awaited}
		})
	}
	one.mu.Unlock()
	one.hold()
	is.Equal(<-asked, [2]bool{false, true})
	is.True(one.Complete(t.Context(), "topic"))
}

// A change that is lost, with nothing after it, is mended by the version that is told
// once more.
func TestLostChange(t *testing.T) {
	t.Parallel()
	b := natstest.Start(t, 1)
	one, two := join(t, b, "one"), join(t, b, "two")
	defer one.Close()
	defer two.Close()
	one.tell(1, "a")
	two.hold()
	two.await(map[ID]string{{1}: "a"})
	hear := func(again bool) {
		two.Peers.mu.Lock()
		defer two.Peers.mu.Unlock()
		h := two.holds["topic"]
		if !again {
			h.sub.Unsubscribe()
			two.nc.Flush()
			return
		}
		h.sub, _ = two.nc.ChanSubscribe(two.topicSubject("topic"), two.in)
		two.nc.Flush()
	}
	hear(false)
	one.tell(2, "b")
	one.flush()
	one.nc.Flush()
	hear(true)
	two.await(map[ID]string{{1}: "a", {2}: "b"})
}

// Many items come in several messages, and none is news.
func TestManyItems(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	const many = 100_000
	b := natstest.Start(t, 1)
	one, two := join(t, b, "one"), join(t, b, "two")
	defer one.Close()
	defer two.Close()
	want := map[ID]string{}
	data := strings.Repeat("x", 60)
	for i := range many {
		id := ID(binary.BigEndian.AppendUint64(make([]byte, 8), uint64(i)))
		one.own[id] = []byte(data)
		want[id] = data
	}
	start := time.Now()
	two.hold()
	two.await(want)
	t.Logf("%d items in %v", many, time.Since(start))
	is.Equal(len(two.told()), 0)
}

// Nothing that comes in can break a process, or make it believe what was not said.
func FuzzTake(f *testing.F) {
	f.Add(append(frame(kindDelta, "other", "topic"), 0, 1))
	f.Add(append(binary.AppendUvarint(frame(kindSnapshot, "other", "topic"), 7), 3))
	f.Add(frame(kindWant, "other", "topic"))
	f.Add(frame(kindBye, "other"))
	f.Add([]byte("t\x05other\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := &reader{b: data}
		node, topic := r.bytes(), r.bytes()
		ops := r.ops()
		if len(node)+len(topic)+len(ops)*len(ID{}) > len(data) {
			t.Fatal("more than there was")
		}
		var back []byte
		for rest := ops; len(rest) > 0; {
			var some []byte
			some, rest = chunk(rest, chunkBytes)
			back = append(back, some...)
		}
		again := &reader{b: back}
		if got := again.ops(); len(got) != len(ops) {
			t.Fatalf("%d ops, written and read again %d", len(ops), len(got))
		}
	})
}
