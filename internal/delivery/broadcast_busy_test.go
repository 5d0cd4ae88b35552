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
	const mostEvents = 5000 // the history keeps more
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
	var publishing, coming sync.WaitGroup
	over := make(chan struct{})
	for n := range 2 {
		publishing.Go(func() {
			for i := range mostEvents / 2 {
				to := event.ToTenant()
				if (n+i)%2 == 0 {
					to = room
				}
				r.publish("acme", to, "1", false)
				select {
				case <-over:
					return
				default:
				}
			}
		})
	}
	for n := range 2 {
		coming.Go(func() {
			for i := range 150 {
				come((n+i)%50, []string{"", first}[i%2])
				mu.Lock()
				gone := all[(i*7+n)%len(all)]
				mu.Unlock()
				r.Streams.Kick(gone, CloseKicked)
			}
		})
	}
	coming.Wait()
	close(over)
	publishing.Wait()
	head := r.head(t, "acme")
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
