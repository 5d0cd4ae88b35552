package delivery

import (
	"time"

	"realtimehub/internal/engine"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
)

// parcel is an event on its way to streams: framed at most once in each encoding.
type parcel struct {
	event  *event.Event
	data   []byte      // the envelope
	place  uint64      // 0: not stored
	cursor string      // empty: not stored
	only   *Connection // that a target of this kind names, whichever tenant's
	since  time.Time   // when it was published; zero: not to be timed

	members int32          // of its room; set as it is delivered
	entry   *history.Entry // that it was made of, which counts the connections that it is for; nil: the hub's own

	excluded event.Excluded // by a target; of one that is for a single stream nobody

	frames frames
}

// pack makes an event of the hub's own ready, which is not stored.
func pack(e *event.Event) *parcel {
	return &parcel{event: e, data: e.AppendEnvelope(make([]byte, 0, len(e.Payload)+320))}
}

// parcelOf makes an entry ready for streams, none of which it leaves out.
func parcelOf(e *history.Entry) parcel {
	p := parcel{event: e.Event, data: e.Envelope, entry: e}
	if e.Event.Stored() {
		p.place, p.cursor = e.Cursor.Seq, e.Cursor.String()
	}
	return p
}

// excludedBy are those whom each of some entries leaves out; nil where none leaves out anybody.
func excludedBy(entries []*history.Entry) (all []event.Excluded) {
	for i, e := range entries {
		some := event.ExcludedBy(&e.Event.Target)
		if all == nil && !some.Nobody() {
			all = make([]event.Excluded, len(entries))
		}
		if all != nil {
			all[i] = some
		}
	}
	return all
}

func (p *parcel) excludes(c *Connection) bool { return p.excluded.Has(c.Profile, c.ID) }

func (p *parcel) append(b []byte, e *Encoder) []byte {
	return e.encoding.AppendEvent(b, p.cursor, p.event.Type, p.data)
}

func (p *parcel) frame(e *Encoder) *engine.Frame {
	frame := p.frames.of(e)
	if *frame == nil {
		b := make([]byte, 0, len(p.data)+len(p.cursor)+len(p.event.Type)+24+engine.ChunkRoom)
		*frame = engine.NewEvents(p.append(b, e), 1, p.cursor == "", p.since)
	}
	return *frame
}

// bundle is several parcels for many streams, in one frame for those that want all.
type bundle struct {
	parcels []*parcel
	frames  frames
}

func (b *bundle) frame(e *Encoder) *engine.Frame {
	frame := b.frames.of(e)
	if *frame == nil {
		var data []byte
		for _, p := range b.parcels {
			data = p.append(data, e)
		}
		*frame = engine.NewEvents(data, len(b.parcels), true, time.Time{})
	}
	return *frame
}
