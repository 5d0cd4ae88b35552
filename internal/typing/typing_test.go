package typing

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/allowance"
	"realtimehub/internal/event"
	"realtimehub/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m, nil) }

var (
	alice = event.TenantProfile{Tenant: "acme", Profile: event.Profile{Type: "user", ID: "alice"}}
	carol = event.TenantProfile{Tenant: "acme", Profile: event.Profile{Type: "user", ID: "carol"}}
)

// world is typists in a bubble, of whom everybody but carol is a member, with a tick a second
// and a TTL of six. Some questions about members, which are asked when somebody types and
// again when it is told, are answered only when they are let.
type world struct {
	*Typists
	mu    sync.Mutex
	calls int
	gates map[int]chan struct{} // by the number of the call
	told  []string
	cast  []bool // what other hubs were told
	size  int    // of the room
	away  bool   // nothing can be told
	slow  string // a tenant of whom nothing is told until busy is closed
	busy  chan struct{}
	waits int // for that
}

var errAway = errors.New("who is a member cannot be asked")

func inBubble(t *testing.T, test func(w *world, is *is.I)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{gates: map[int]chan struct{}{}, size: 2}
		w.Typists = New(Config{TTL: 6 * time.Second, Pools: &allowance.Pools{}, Spoke: func(event.TenantProfile) {}, Members: w, Teller: w})
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		go func() {
			for {
				select {
				case <-t.Context().Done():
					return
				case now := <-ticker.C:
					w.Tick(now)
				}
			}
		}()
		test(w, is.New(t))
	})
}

// hold has the n-th question from now on wait, and returns what lets it go.
func (w *world) hold(n int) (let func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	gate := make(chan struct{})
	w.gates[w.calls+n] = gate
	return func() {
		close(gate)
		synctest.Wait()
	}
}

func (w *world) ask() {
	w.mu.Lock()
	w.calls++
	gate := w.gates[w.calls]
	w.mu.Unlock()
	if gate != nil {
		<-gate
	}
}

// Member implements Config.Members.
func (w *world) Member(_ context.Context, _ string, _ event.Room, p event.Profile) (member bool, size int, err error) {
	w.ask()
	return p != carol.Profile, w.size, nil
}

// Say implements Config.Teller.
func (w *world) Say(_ context.Context, e *event.Event) error {
	w.ask()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.away {
		return errAway
	}
	if e.TenantID == w.slow {
		w.waits++
		w.mu.Unlock()
		<-w.busy
		w.mu.Lock()
	}
	w.told = append(w.told, strings.TrimPrefix(e.Type, "typing."))
	return nil
}

// types has alice's client call, and does not wait for the answer.
func (w *world) types(started bool) {
	go w.Typing(context.Background(), alice.Tenant, alice.Profile, "talk", started)
	synctest.Wait()
}

// hears has another hub tell of alice.
func (w *world) hears(started bool) {
	w.Heard(alice.Tenant, alice.Profile, "talk", started)
	synctest.Wait()
}

func (w *world) wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// typists is how many profiles are kept.
func (w *world) typists() int {
	w.Typists.mu.Lock()
	defer w.Typists.mu.Unlock()
	return w.of.Len()
}

// said is what the hub's streams were told, in order.
func (w *world) said() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.told, " ")
}

// Typing that is repeated goes on, and is told once; it has stopped when its time is over, and
// then nothing is kept of it.
func TestTypingHasATime(t *testing.T) {
	inBubble(t, func(w *world, is *is.I) {
		is.True(errors.Is(w.Typing(t.Context(), carol.Tenant, carol.Profile, "talk", true), ErrNotMember))
		is.Equal(w.typists(), 0)
		w.types(true)
		w.wait(5 * time.Second)
		w.types(true)
		w.wait(5 * time.Second)
		is.Equal(w.typists(), 1)
		is.Equal(w.said(), "started")
		w.wait(3 * time.Second)
		is.Equal(w.typists(), 0)
		is.Equal(w.said(), "started stopped")
	})
}

// Whatever waits for the membership service, others are told of a typist in the order
// in which it happened.
func TestTypingIsToldInOrder(t *testing.T) {
	for name, test := range map[string]func(w *world, is *is.I){
		"the start is told late": func(w *world, is *is.I) {
			let := w.hold(2) // by when it is told
			w.types(true)
			w.types(false)
			let()
			is.Equal(w.typists(), 0)
			is.Equal(w.said(), "started stopped")
		},
		"the start is found a member late": func(w *world, is *is.I) {
			let := w.hold(1)
			w.types(true)
			w.types(false) // which is the later word
			let()
			is.Equal(w.typists(), 0)
			is.Equal(w.said(), "")
		},
		"the tick's stop is told late": func(w *world, is *is.I) {
			w.types(true)
			let := w.hold(1)
			w.wait(8 * time.Second) // its time is over
			w.types(true)
			let()
			is.Equal(w.said(), "started stopped started")
		},
		"offline, and typing again within the tick": func(w *world, is *is.I) {
			w.types(true)
			w.Left(alice)
			w.types(true)
			w.wait(3 * time.Second)
			is.Equal(w.typists(), 1)
			is.Equal(w.said(), "started") // others see what is so
		},
		"another hub's, told late": func(w *world, is *is.I) {
			let := w.hold(1)
			w.hears(true)
			w.hears(false)
			let()
			is.Equal(w.typists(), 0)
			is.Equal(w.said(), "started stopped")
		},
		"to other hubs": func(w *world, is *is.I) {
			w.cfg.Cast = func(_ event.TenantProfile, _ string, started bool) { w.cast = append(w.cast, started) }
			let := w.hold(2)
			w.types(true)
			w.types(false)
			let()
			w.types(true)
			w.types(true)  // a repeat: they have a time of their own
			w.types(false) //
			w.types(false) // of whom this hub knows nothing, and another may
			is.Equal(w.cast, []bool{true, false, true, true, false, false})
			is.Equal(w.said(), "started stopped started stopped")
		},
	} {
		t.Run(name, func(t *testing.T) { inBubble(t, test) })
	}
}

// In a room that is too large nobody is told of a start.
func TestTypingInALargeRoom(t *testing.T) {
	inBubble(t, func(w *world, is *is.I) {
		w.size = maxRoom
		w.types(true)
		is.Equal(w.said(), "started")
		w.size++
		w.types(true) // it has grown
		is.Equal(w.said(), "started stopped")
		is.Equal(w.Crowded(), 1)
	})
}

// setAway has nothing told, or all again.
func (w *world) setAway(away bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.away = away
}

// A stop that cannot be told, of somebody whose start was, is told as soon as it can be, unless
// that one types again; other hubs are told as well.
func TestAStopThatCannotBeTold(t *testing.T) {
	for name, test := range map[string]struct {
		then func(w *world)
		said string
		cast []bool
	}{
		"the next tick": {func(w *world) { w.wait(time.Second) }, "started stopped", []bool{true, false}},
		"a repeat":      {func(w *world) { w.types(false) }, "started stopped", []bool{true, false}},
		"a start":       {func(w *world) { w.types(true) }, "started", []bool{true, true}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(w *world, is *is.I) {
				w.cfg.Cast = func(_ event.TenantProfile, _ string, started bool) { w.cast = append(w.cast, started) }
				w.types(true)
				w.setAway(true)
				w.types(false)
				w.wait(3 * time.Second)
				is.Equal(w.said(), "started")
				is.Equal(w.typists(), 1)
				w.setAway(false)
				test.then(w)
				is.Equal(w.said(), test.said)
				is.Equal(w.cast, test.cast)
				w.wait(8 * time.Second)
				is.Equal(w.said(), "started stopped")
				is.Equal(w.typists(), 0)
			})
		})
	}
}

// A stop that can never be told is given up a minute after the typing's time, and counted. Who types
// again is told of again.
func TestAStopThatIsGivenUp(t *testing.T) {
	inBubble(t, func(w *world, is *is.I) {
		w.cfg.Cast = func(_ event.TenantProfile, _ string, started bool) { w.cast = append(w.cast, started) }
		w.types(true)
		w.setAway(true)
		w.types(false)
		w.wait(w.cfg.TTL + untoldTime - time.Second)
		is.Equal(w.typists(), 1)
		is.Equal(w.Untold(), 0)
		w.wait(2 * time.Second)
		is.Equal(w.typists(), 0)
		is.Equal(w.Untold(), 1)
		tries := w.calls
		w.wait(time.Minute)
		is.Equal(w.calls, tries)
		w.setAway(false)
		w.types(true)
		w.wait(8 * time.Second)
		is.Equal(w.said(), "started started stopped")
		is.Equal(w.cast, []bool{true, true}) // they time it themselves
	})
}

// hear has another hub tell that so many in a tenant have begun to type.
func (w *world) hear(tenant string, n int) {
	for i := range n {
		w.Heard(tenant, event.Profile{Type: "user", ID: fmt.Sprint(i)}, "talk", true)
	}
	synctest.Wait()
}

// However many have stopped at once, others get the lock, which is that of all tenants, after each
// piece.
func TestTypingEndsInPieces(t *testing.T) {
	inBubble(t, func(w *world, is *is.I) {
		const all = 2*piece + 10
		w.hear("acme", all)
		come, soon := map[string][]*typist{}, time.Now().Add(time.Minute)
		for i, rest := range []int{piece + 10, 10, 0} {
			is.Equal(w.take(come, soon), i < 2)
			is.Equal(w.due.Len(), rest)
		}
		is.Equal(len(come["acme"]), all)
	})
}

// A tenant that is busy keeps no other's waiting, and no more than some of it is told at a time,
// however many ticks pass.
func TestABusyTenantKeepsNoTypingWaiting(t *testing.T) {
	inBubble(t, func(w *world, is *is.I) {
		const many = 200
		w.hear("busy", many)
		w.hear("well", 1)
		w.mu.Lock()
		w.slow, w.busy = "busy", make(chan struct{})
		w.mu.Unlock()
		w.wait(10 * time.Second)
		is.Equal(strings.Count(w.said(), "stopped"), 1)
		is.True(w.waits > 0 && w.waits < many/2)
		close(w.busy)
		w.wait(time.Second)
		is.Equal(strings.Count(w.said(), "stopped"), many+1)
		is.Equal(w.typists(), 0)
	})
}
