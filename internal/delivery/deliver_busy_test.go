package delivery

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"

	"realtimehub/internal/duty"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/sse"
	"realtimehub/internal/testkit"
)

// While several publish to a whole tenant, and to a room of all of it, others connect and resume:
// each stream is sent every event after its place once, in order.
func TestBroadcastsMeetConnects(t *testing.T) {
	is := is.New(t)
	defer walkPiece.Store(walkPiece.Swap(7))
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

// Something for many streams is handed to a piece of them at a time, and fewer where there is
// much of it. Others have the tenant between two pieces: who comes then has not to hear it.
func TestABroadcastLetsOthersIn(t *testing.T) {
	is := is.New(t)
	r := newRig(t)
	piece := int(walkPiece.Load())
	many := 5 * piece
	for i := range many {
		r.connect(t, Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: user(fmt.Sprint(i))})
	}
	acme := r.Tenants.find("acme")
	heard := 0
	say := func() {
		acme.broadcastLocked(everybody, func(*Connection) {
			if heard++; heard%piece == 0 {
				time.Sleep(2 * time.Millisecond) // who has waited for a lock for one is given it next
			}
		})
	}
	say()
	acme.walkLocked(piece)
	is.Equal(heard, piece)
	for range 9 {
		say()
	}
	heard = 0
	acme.walkLocked(piece)
	is.Equal(heard, piece) // ten of it, to a tenth of the streams
	acme.flush()

	testkit.Eventually(t, func() bool {
		acme.mu.Lock()
		heard = 0
		say()
		between := false
		var other sync.WaitGroup
		other.Go(func() {
			acme.mu.Lock()
			defer acme.mu.Unlock()
			between = heard > 0 && heard < many
		})
		acme.flush()
		other.Wait()
		return between
	})
	is.Equal(heard, many)
}

// Many change of whom many are to know: others have the tenant in between.
func TestNoticesLetOthersIn(t *testing.T) {
	defer walkPiece.Store(walkPiece.Swap(10))
	const people = 40
	for name, watches := range map[string]bool{"who watch them": true, "who share a room": false} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			r := newRig(t)
			var notices []Notice
			var profiles []event.Profile
			all := event.ToGroup("all")
			room, _ := all.Room()
			for i := range people {
				who := user(fmt.Sprint(i))
				is.NoErr(r.Members.AddMember(t.Context(), "acme", room, who))
				profiles = append(profiles, who)
				notices = append(notices, Notice{About: who, Event: event.NewEphemeral("acme", "a.notice", event.ToTenant(), time.Now(), 1)})
			}
			for i := range people {
				sub := Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: user(fmt.Sprint(i))}
				if watches {
					sub.Watch = profiles
				}
				r.connect(t, sub)
			}
			acme := r.Tenants.find("acme")
			acme.mu.Unlock()
			testkit.Eventually(t, func() bool {
				w := wordOf(notices, nil)
				told := func() (n int) {
					for _, p := range w.parcels {
						if p.frames.first.data != nil {
							n++
						}
					}
					return n
				}
				acme.mu.Lock()
				between := false
				var other sync.WaitGroup
				other.Go(func() {
					acme.mu.Lock()
					defer acme.mu.Unlock()
					between = told() > 0 && told() < len(notices)
				})
				time.Sleep(2 * time.Millisecond) // who has waited for a lock for one is given it next
				acme.notifyLocked(w, true)
				acme.flush()
				other.Wait()
				return between
			})
		})
	}
}

// Of many who are named, a piece is looked up before others have the tenant; who has to do with it
// meanwhile has heard.
func TestManyWhoAreNamedAreToldInPieces(t *testing.T) {
	is := is.New(t)
	r := newRig(t, func(cfg *Config) { cfg.Log = late{history.NewMemory(testLimits)} })
	piece := int(walkPiece.Load())
	named := make([]event.Profile, 3*piece)
	for i := range named {
		named[i] = user(fmt.Sprint(i))
	}
	first, last := named[0], named[len(named)-1]
	for _, who := range []event.Profile{first, first, named[piece], last} {
		r.connect(t, Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: who})
	}
	e := &event.Event{ID: uuid.NewString(), TenantID: "acme", Type: "a.b", Payload: []byte("1"), Target: event.ToProfiles(named...), Ephemeral: true}
	entry := &history.Entry{Event: e, Envelope: e.Seal()}
	is.NoErr(r.log.Append(t.Context(), []*history.Entry{entry}))
	is.Equal(r.Streams.CountHere(e), 4)
	acme := r.Tenants.find("acme")
	defer acme.mu.Unlock()
	is.Equal(entry.Reached, int32(0)) // nobody was looked up yet
	acme.walkLocked(piece)
	is.Equal(entry.Reached, int32(1)) // of the last thousand
	acme.hearFirstLocked(first)
	is.Equal(entry.Reached, int32(3))
	acme.walkOnLocked()
	is.Equal(entry.Reached, int32(4))
}

// resumed notes what a person's other connections were sent as one of them came.
type resumed struct {
	heard
	others []duty.Acknowledgement
}

func (r *resumed) Resumed(_ duty.Acknowledgement, others []duty.Acknowledgement) { r.others = others }

// A connection that is asked what it was sent has heard what was broadcast before; and one whose
// client asks again, before it goes on with another stream.
func TestWhoIsAskedHasHeard(t *testing.T) {
	is := is.New(t)
	duties := &resumed{}
	r := newRig(t, func(cfg *Config) { cfg.Duties, cfg.Log = duties, late{history.NewMemory(testLimits)} })
	sub := Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: user("me"), Acks: true, Linger: time.Minute, Client: "tab"}
	c := r.connect(t, sub)
	say := func(ephemeral bool) uint64 {
		e := &event.Event{ID: uuid.NewString(), TenantID: "acme", Type: "a.b", Timestamp: time.Now(), Payload: []byte(`"once"`), Target: event.ToTenant(), Ephemeral: ephemeral}
		if !ephemeral {
			e.Deadline = time.Hour
		}
		entry := &history.Entry{Event: e, Envelope: e.Seal()}
		is.NoErr(r.log.Append(t.Context(), []*history.Entry{entry}))
		return entry.Cursor.Seq
	}

	why, _ := r.Streams.Explain("acme", []event.Profile{sub.Profile}, Sent{Type: "a.b", Place: say(false)})
	is.Equal(why, []Why{WhySentUnacknowledged})

	place := say(false)
	other := sub
	other.Client, other.Cursor = "another tab", history.Cursor{Epoch: r.head(t, "acme").Epoch, Seq: place}.String()
	r.connect(t, other)
	is.Equal(len(duties.others), 1)
	is.True(len(c.acks.owed) > 0 && c.acks.owed[0].place == place) // what was sent is known to have a deadline

	place = say(false)
	found, err := r.Streams.Acknowledge(c, history.Cursor{Epoch: r.head(t, "acme").Epoch, Seq: place}.String()) // another of its person's connections may have it
	is.NoErr(err)
	is.True(found)

	say(true)
	before := c.Stream
	is.True(r.connect(t, sub) == c && c.Stream != before)
	r.Dispatcher.Flush("acme")
	is.Equal(strings.Count(r.read(c), `"once"`), 0) // it was for the stream before
}
