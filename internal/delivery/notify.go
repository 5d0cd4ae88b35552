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
	t := d.tenants.find(name)
	if t == nil {
		return
	}
	t.notifyLocked(notices, digest, shared)
	t.flush()
}

// Notice is an ephemeral event of the hub's own about one profile.
type Notice struct {
	About event.Profile
	Event *event.Event
}

// notifyLocked is Notify for the streams of one tenant.
func (t *tenant) notifyLocked(notices []Notice, digest *event.Event, shared bool) {
	parcels := make([]*parcel, len(notices))
	for i, n := range notices {
		parcels[i] = pack(n.Event)
		for _, c := range t.watching(n.About) {
			if !shared || c.Profile == n.About || t.rooms.Share(c.Profile, n.About) {
				t.tellLocked(c, parcels[i])
			}
		}
	}
	all := parcels
	if digest != nil {
		all = []*parcel{pack(digest)}
	}
	if shared {
		t.notifySharedLocked(notices, all, digest != nil)
		return
	}
	whole, after := &bundle{parcels: all}, t.head.Seq
	t.broadcastLocked(everybody, func(c *Connection) {
		if c.watch == nil {
			t.giveBundleLocked(c, whole, after)
		}
	})
}

func (t *tenant) notifySharedLocked(notices []Notice, parcels []*parcel, digest bool) {
	told := map[*member]bool{}
	visited := room.Visited[*Connection]{}
	for i, n := range notices {
		parcel := parcels[0]
		if !digest {
			parcel = parcels[i]
			clear(told)
			clear(visited)
		}
		tell := func(p *member) {
			if p == nil || told[p] {
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
