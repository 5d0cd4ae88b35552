package delivery

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/event"
	"realtimehub/internal/sse"
)

// While several publish to a whole tenant, and to a room of all of it, others connect and resume:
// each stream is sent every event after its place once, in order.
func TestBroadcastsMeetConnects(t *testing.T) {
	is := is.New(t)
	defer func(was int) { walkPiece = was }(walkPiece)
	walkPiece = 7
	r := newRig(t, func(cfg *Config) { cfg.StreamBuffer = 0 })
	const publishers, each, comers = 3, 60, 4
	room := event.ToGroup("all")
	in, _ := room.Room()
	var mu sync.Mutex
	var all []*Connection
	come := func(who int, cursor string) {
		c := r.connect(t, Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: user(fmt.Sprint(who)), Cursor: cursor})
		mu.Lock()
		defer mu.Unlock()
		all = append(all, c)
	}
	for who := range 50 {
		is.NoErr(r.Members.AddMember(t.Context(), "acme", in, user(fmt.Sprint(who))))
		come(who, "")
	}
	first := r.publish("acme", event.ToTenant(), "1", false)
	var busy, working sync.WaitGroup
	over := make(chan struct{})
	for n := range publishers {
		working.Go(func() {
			for i := range each {
				to := event.ToTenant()
				if (n+i)%2 == 0 {
					to = room
				}
				r.publish("acme", to, "1", false)
			}
		})
	}
	for n := range comers {
		busy.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-over:
					return
				default:
				}
				come((n+i)%50, []string{"", first}[i%2])
				if i%3 == 0 {
					mu.Lock()
					gone := all[(i*7+n)%len(all)]
					mu.Unlock()
					r.Streams.Kick(gone, CloseKicked)
				}
			}
		})
	}
	working.Wait()
	close(over)
	busy.Wait()
	head := r.head(t, "acme")
	is.Equal(head.Seq, uint64(1+publishers*each))
	for _, c := range all {
		removed, behind := c.removed, c.behind != nil
		at := c.begun
		for frame := range strings.SplitSeq(r.read(c), "\n\n") {
			_, id, _ := strings.Cut("\n"+frame, "\nid: ")
			id, _, _ = strings.Cut(id, "\n")
			place, ok := head.Epoch.Parse(id)
			if isEvent := strings.Contains(frame, "event: a.b"); isEvent {
				at++
			}
			if ok && place.Seq != at {
				t.Fatalf("a stream that has had all up to %d is sent\n%s\nwhich is at %d", at, frame, place.Seq)
			}
		}
		is.True(removed || behind || at == head.Seq)
	}
}
