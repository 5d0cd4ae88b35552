package delivery

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"realtimehub/internal/engine"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/room"
)

// replay sends one connection what it missed, a chunk whenever its client has
// taken the last, until it has caught up and is live.
type replay struct {
	// Static.
	tenant *tenant
	conn   *Connection
	stream *engine.Stream
	log    history.Log
	// resolve asks for rooms; nil: the hub's own are the truth.
	resolve func(ctx context.Context, rooms []room.Key) ([]*room.Roster, error)
	fail    func() // ends the stream: the client resumes later
	rest    func() // ends it, since all it was to have is sent
	logger  *slog.Logger
	reader  func() *history.Reader      // who the connection is now; the tenant is locked
	sure    func(context.Context) error // that this is what all hubs know

	count *Counts
	of    history.Epoch // of the history that is read

	patience time.Duration // how long an answer about rooms is waited for; 0 once one did not come

	told   uint64 // the place of the last id that the client was sent
	events int    // that it was sent
}

// chunkBytes is about how much of a history is read at once.
const chunkBytes = 64 << 10

// step sends the next chunk and says whether there may be more.
func (r *replay) step() (more bool) {
	if err := r.sure(context.Background()); err != nil {
		return r.failed("a resume ended: this hub could not confirm that it knows the tenant's current membership", err)
	}
	q, forgot, there := r.next()
	if !there {
		return false
	}
	page, expired, err := r.read(q)
	if err != nil {
		return r.failed("a resume ended: the history could not be read", err)
	}
	rooms, rosters := r.rosters(page.Entries)

	var d engine.Batch
	t := r.tenant
	t.mu.Lock()
	unknown := r.thereLocked() && t.adoptAll(rooms, rosters, time.Now())
	if !r.thereLocked() {
		t.mu.Unlock()
		return false
	}
	t.hearLocked(r.conn)
	if forgot {
		r.missedLocked(&d, GapExpired, history.Cursor{Epoch: page.Next.Epoch, Seq: q.After})
	}
	if expired {
		r.missedLocked(&d, GapExpired, page.Next)
	}
	r.sendLocked(&d, page)
	if unknown { // the client may be one of those whom it was for
		r.missedLocked(&d, GapMembership, page.Next)
	}
	live := page.Next.Seq >= t.head.Seq && !expired
	leaving := live && r.conn.linger != nil && r.conn.linger.leaving
	if live {
		r.conn.behind = nil
		r.count.replayed.Add(r.events)
	}
	t.mu.Unlock()
	d.Flush()
	if leaving {
		r.rest()
	}
	return !live
}

// failed ends the stream, logs why, and says that there is no more to send.
func (r *replay) failed(why string, err error) (more bool) {
	r.logger.Warn(why, "tenant", r.tenant.name, "err", err)
	r.fail()
	return false
}

// next is what is to be read next, and whether stays of what is read have been forgotten
// since the replay began; there is false once the stream is to have no more.
func (r *replay) next() (q history.Query, forgot, there bool) {
	t, c := r.tenant, r.conn
	t.mu.Lock()
	defer t.mu.Unlock()
	// The reader has the rooms of now. The connection may join others while this is read, but
	// what is said there comes after Until.
	q = history.Query{After: c.place, Until: t.head.Seq, Reader: r.reader(), Bytes: chunkBytes}
	if !r.thereLocked() {
		return q, false, false
	}
	if c.acks != nil {
		if left := min(t.rooms.Left(c.Profile), t.head.Seq); left > max(c.place, c.acks.only) {
			c.acks.onlyLocked(max(c.place, c.acks.only), left)
		}
	}
	if until := t.rooms.Forgotten(c.Profile); until > c.behind.forgot {
		forgot, c.behind.forgot = c.place < until, until
	}
	return q, forgot, true
}

// thereLocked says whether the stream is still to be sent anything.
func (r *replay) thereLocked() bool {
	c := r.conn
	return !c.removed && !c.restsLocked() && c.Stream == r.stream
}

// read reads a page of the history that the replay began with. Of what has expired the page
// says where things go on.
func (r *replay) read(q history.Query) (page history.Page, expired bool, err error) {
	page, err = r.log.Read(context.Background(), r.tenant.name, q)
	expired = errors.Is(err, history.ErrExpired)
	switch {
	case err != nil && !expired:
		return page, false, err
	case page.Next.Epoch != r.of: // it has begun anew
		return page, false, history.ErrUnknownCursor
	}
	return page, expired, nil
}

// missedLocked tells the client that something is missing for good, and where things go on.
func (r *replay) missedLocked(d *engine.Batch, reason GapReason, from history.Cursor) {
	r.count.gaps.Add(reason, 1)
	r.conn.skipLocked(r.told, from.Seq)
	d.Send(r.conn.Stream, r.conn.encoder.gap(reason, from))
	r.told = from.Seq
}

// rosters asks whoever owns membership about the rooms of some entries, as of now. A roster
// is nil where there is no answer: then the last one holds.
func (r *replay) rosters(entries []*history.Entry) (rooms []room.Key, rosters []*room.Roster) {
	if r.resolve == nil {
		return nil, nil
	}
	asked := map[event.Room]bool{}
	for _, e := range entries {
		if in, ok := e.Event.Target.Room(); ok && !asked[in] {
			asked[in] = true
			rooms = append(rooms, room.Key{Tenant: r.tenant.name, Room: in})
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), r.patience)
	defer cancel()
	rosters, _ = r.resolve(ctx, rooms) // logged
	if ctx.Err() != nil {
		r.patience = 0
	}
	return rooms, rosters
}

// sendLocked sends a page's entries, as one frame where it can, and between them
// what was held at their places.
func (r *replay) sendLocked(d *engine.Batch, page history.Page) {
	t, c := r.tenant, r.conn
	var b []byte
	events := 0 // in b
	flush := func() {
		if len(b) > 0 {
			d.Send(c.Stream, engine.NewEvents(b, events, false, time.Time{}))
			r.events += events
			b, events = nil, 0
		}
	}
	heldBefore := func(place uint64) {
		behind := c.behind
		for len(behind.held) > 0 && behind.held[0].after < place {
			flush()
			d.Send(c.Stream, behind.held[0].frame)
			behind.bytes -= behind.held[0].frame.Len()
			if behind.held = behind.held[1:]; len(behind.held) == 0 {
				behind.bytes = 0
			}
		}
	}
	for _, e := range page.Entries {
		heldBefore(e.Cursor.Seq)
		room, isRoom := e.Event.Target.Room()
		if !c.filter.Wants(e.Event.Type) || e.Event.Target.Excludes(c.Profile, c.ID) {
			continue
		}
		sent := !isRoom || t.rooms.Has(room, c.Profile)
		if c.acks != nil && e.Event.Deadline > 0 {
			c.acks.noteLocked(e.Cursor.Seq, sent)
		}
		if !sent {
			continue
		}
		p := parcelOf(e)
		b = p.append(b, c.encoder)
		if e.Event.Deadline > 0 {
			c.owe(e.Event, e.Cursor.Seq)
		}
		events++
		r.told = e.Cursor.Seq
	}
	c.place = page.Next.Seq
	if r.told < c.place && c.place >= t.head.Seq {
		b = c.encoder.encoding.AppendPlace(b, page.Next.String())
		r.told = c.place
	}
	heldBefore(c.place + 1)
	flush()
}

// behind is what is kept for a connection that is still being sent what it missed. New events
// are read from the history too, once it gets there; only those that are not stored are held
// here.
type behind struct {
	held  []held
	bytes int
	shed  *engine.Frame // tells of a gap, in place of held frames that took too much memory
	count *Counts

	forgot uint64 // stays that ended up to this place may be missing; the client has been told
}

// held is a frame that is not stored, and the place it comes after.
type held struct {
	after uint64
	frame *engine.Frame
}

// maxHeld is how many bytes are held for a connection that is behind.
const maxHeld = 256 << 10

// hold keeps a frame that is not stored, to be sent after a place in the history. If there is
// no room for it, everything that was held gives way to one hub.gap.
func (b *behind) hold(frame *engine.Frame, after uint64) {
	if b.bytes+frame.Len() <= maxHeld {
		b.held = append(b.held, held{after, frame})
		b.bytes += frame.Len()
		return
	}
	dropped := frame.Events()
	for _, h := range b.held {
		dropped += h.frame.Events()
	}
	b.count.behind.Add(int64(dropped))
	if len(b.held) != 1 || b.held[0].frame != b.shed {
		b.count.gaps.Add(GapSlow, 1)
	}
	first := append(b.held, held{after: after})[0]
	b.held, b.bytes = []held{{first.after, b.shed}}, maxHeld
}
