package delivery

import (
	"realtimehub/internal/event"
	"realtimehub/internal/room"
)

// Notify tells a tenant's streams of changes: each stream with a watch list of
// those on its list, and every other stream of all of them in one write, or of
// the digest alone when there is one. With shared set, only streams of profiles
// that have a room in common with who changed, or are who changed, are told.
func (d *Dispatcher) Notify(name string, notices []Notice, digest *event.Event, shared bool) {
	w := wordOf(notices, digest)
	if t := d.tenants.find(name); t != nil {
		t.notifyLocked(w, shared)
		t.flush()
	}
}

// Notice is an ephemeral event of the hub's own about one profile.
type Notice struct {
	About event.Profile
	Event *event.Event
}

// word is notices on their way to streams.
type word struct {
	notices []Notice
	parcels []*parcel // of each; nil: nobody was told it yet
	digest  *parcel   // nil: everybody is told all
}

// wordOf makes what everybody is told, before the tenant is locked. Of a digest only who watches is told
// more, of few.
func wordOf(notices []Notice, digest *event.Event) *word {
	w := &word{notices: notices, parcels: make([]*parcel, len(notices))}
	if digest != nil {
		w.digest = pack(digest)
		return w
	}
	for i := range notices {
		w.of(i)
	}
	return w
}

// of is a notice, made once somebody is told it.
func (w *word) of(i int) *parcel {
	if w.parcels[i] == nil {
		w.parcels[i] = pack(w.notices[i].Event)
	}
	return w.parcels[i]
}

// notifyLocked is Notify for the streams of one tenant.
func (t *tenant) notifyLocked(w *word, shared bool) {
	t.notifyWatchersLocked(w, shared)
	if shared {
		t.notifySharedLocked(w)
		return
	}
	whole, after := &bundle{parcels: w.parcels}, t.head.Seq
	if w.digest != nil {
		whole.parcels = []*parcel{w.digest}
	}
	t.broadcastLocked(everybody, func(c *Connection) {
		if c.watch == nil {
			t.giveBundleLocked(c, whole, after)
		}
	})
}

func (t *tenant) notifyWatchersLocked(w *word, shared bool) {
	if t.watchers.Len() == 0 {
		return
	}
	for i, n := range w.notices {
		for _, c := range t.watching(n.About) {
			if !shared || c.Profile == n.About || t.rooms.Share(c.Profile, n.About) {
				t.tellLocked(c, w.of(i))
			}
		}
	}
}

func (t *tenant) notifySharedLocked(w *word) {
	told := map[*member]bool{}
	visited := room.Visited[*Connection]{}
	for i, n := range w.notices {
		parcel := w.digest
		if parcel == nil {
			parcel = w.of(i)
			clear(told)
			clear(visited)
		}
		tell := func(p *member) {
			if p == nil || len(p.Conns()) == 0 || told[p] {
				return
			}
			told[p] = true
			for _, c := range p.Conns() {
				if c.watch == nil {
					t.tellLocked(c, parcel)
				}
			}
		}
		tell(t.rooms.Person(n.About))
		t.rooms.EachBeside(n.About, visited, tell)
	}
}

func (t *tenant) giveBundleLocked(c *Connection, b *bundle, after uint64) {
	if c.filter != nil {
		for _, p := range b.parcels {
			t.giveLocked(c, p, after)
		}
		return
	}
	c.sendLocked(&t.gathered, b.frame(c.encoder), 0, after)
}
