package delivery

import (
	"math/rand/v2"
	"strconv"
	"time"

	"realtimehub/internal/engine"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
)

// Encoding is how the clients of one kind of door are told things: the only part of
// delivery that differs between doors. It is a comparable value, and equal ones write the
// same bytes, since streams of equal encodings share their frames. Each method appends
// something whole, which a client can read by itself.
type Encoding interface {
	// AppendEvent appends an event of a type, with its envelope and the cursor of its
	// place; no cursor where it is not stored. It has been validated.
	AppendEvent(b []byte, cursor, typ string, envelope []byte) []byte
	// AppendWord appends what the hub itself says: hub.ready first, hub.closing last, and
	// between them what a client must know. data is a JSON object. A cursor that is not
	// empty is the place that the client knows then. A client is to wait for retry before
	// it reconnects; zero says nothing of that.
	AppendWord(b []byte, cursor, typ string, retry time.Duration, data []byte) []byte
	// AppendPlace appends a cursor that the client is to remember, and nothing else.
	AppendPlace(b []byte, cursor string) []byte
	// AppendHeartbeat appends a sign of life.
	AppendHeartbeat(b []byte) []byte
	// AppendEnd appends what ends a stream after hub.closing, whose reason it is given; nothing
	// where the end of the bytes says it all.
	AppendEnd(b []byte, reason string) []byte
}

// Answering is an Encoding whose clients are answered on their stream.
type Answering interface {
	Encoding
	// AppendRecords appends answers, which are whole records of the encoding.
	AppendRecords(b, records []byte) []byte
}

// Encoder is an Encoding with a hub's own words: one for all of the hub's streams of that
// encoding.
type Encoder struct {
	// Static.
	encoding  Encoding
	engine    *engine.Engine
	own       *engine.Words
	retry     time.Duration // how long clients wait before they reconnect, at the hub's word up to twice that
	heartbeat time.Duration
}

// Encoder is that of an encoding.
func (s *Streams) Encoder(of Encoding) *Encoder {
	if e, ok := s.encoders.Load(of); ok {
		return e.(*Encoder)
	}
	e := &Encoder{encoding: of, engine: s.engine, retry: s.retry, heartbeat: s.heartbeat}
	e.own = &engine.Words{
		Beat: engine.NewFrame(of.AppendHeartbeat(nil), true),
		Shed: e.word("", "hub.gap", 0, []byte(`{"reason":"`+string(GapSlow)+`"}`)),
		Cut:  func() *engine.Frame { return e.closing(CloseSlow, 0, "") },
	}
	first, _ := s.encoders.LoadOrStore(of, e)
	return first.(*Encoder)
}

// NewStream makes a stream that is no connection's. gone is told once it has ended.
func (e *Encoder) NewStream(gone func(why error)) *engine.Stream {
	return e.engine.NewStream(e.own, gone)
}

// Closing is the last words of a stream that NewStream made. The client is to stay away for
// so much longer than it would.
func (e *Encoder) Closing(reason CloseReason, after time.Duration) *engine.Frame {
	return e.closing(reason, after, "")
}

// AppendTurnedAway appends all that a client is told that is turned away: hub.closing, and the
// door's end.
func (e *Encoder) AppendTurnedAway(b []byte, t *TurnedAway) []byte {
	return e.encoding.AppendEnd(e.appendClosing(b, t.Reason, t.After, "", t.Problem), string(t.Reason))
}

func (e *Encoder) word(cursor, typ string, retry time.Duration, data []byte) *engine.Frame {
	b := make([]byte, 0, len(data)+len(cursor)+64)
	return engine.NewFrame(e.encoding.AppendWord(b, cursor, typ, retry, data), false)
}

// ready is the first frame of every stream: its cursor is the place before the
// first event to come, so that a client cut before that resumes there. A partial
// one has none: its client is to learn of the gap even if it is cut before. The
// heartbeat is told for those who read streams by themselves: a silence of three is
// a dead stream.
func (e *Encoder) ready(c *Connection, resume Resume, from history.Cursor) *engine.Frame {
	cursor := from.String()
	data := make([]byte, 0, 320) // by hand: it is part of what a connect costs
	data = append(append(data, `{"connectionId":"`...), c.ID.String()...)
	data = append(append(data, `","tenantId":"`...), c.Tenant...)
	data = c.Profile.AppendJSON(append(data, `","profile":`...))
	data = event.AppendTime(append(data, `,"connectedAt":"`...), c.ConnectedAt)
	data = append(append(data, `","resume":"`...), resume...)
	data = append(append(data, `","cursor":"`...), cursor...)
	data = append(data, `","heartbeatMs":`...)
	data = strconv.AppendInt(data, e.heartbeat.Milliseconds(), 10)
	if c.acks != nil {
		data = strconv.AppendInt(append(data, `,"ackMs":`...), ackEvery.Milliseconds(), 10)
	}
	data = append(data, '}')
	if resume == ResumePartial {
		cursor = ""
	}
	return e.word(cursor, "hub.ready", e.retry, data)
}

// displacedRetry is how long who was displaced stays away, up to twice that. A client
// that knows who uses it waits for its person instead; stock EventSource cannot, and two
// of them must not take each other's place every few seconds for ever.
const displacedRetry = 5 * time.Minute

// closing is the last frame of a stream that the hub ends. The cursor is what a client knows
// who has had all before; empty where it lacks something.
func (e *Encoder) closing(reason CloseReason, after time.Duration, cursor string) *engine.Frame {
	b := e.appendClosing(make([]byte, 0, len(cursor)+128), reason, after, cursor, nil)
	return engine.NewFrame(e.encoding.AppendEnd(b, string(reason)), false)
}

// appendClosing appends hub.closing: when to come back is jittered, so that those cut together
// do not return together. The client is to stay away for so much longer. problem is the JSON of
// why it was refused, if it was.
func (e *Encoder) appendClosing(b []byte, reason CloseReason, after time.Duration, cursor string, problem []byte) []byte {
	wait := e.retry
	if reason == CloseReplaced || reason == CloseKicked || reason == CloseRefused {
		wait = max(wait, displacedRetry)
	}
	wait += after + rand.N(wait)
	data := append(append([]byte(`{"reason":"`), reason...), `","retryMs":`...)
	data = strconv.AppendInt(data, wait.Milliseconds(), 10)
	if problem != nil {
		data = append(append(data, `,"problem":`...), problem...)
	}
	return e.encoding.AppendWord(b, cursor, "hub.closing", wait, append(data, '}'))
}

// expiring tells a client that its token is about to end.
func (e *Encoder) expiring(at time.Time) *engine.Frame {
	return e.word("", "hub.expiring", 0, append(event.AppendTime([]byte(`{"expiresAt":"`), at), `"}`...))
}

// gap says that something was missed for good, and where things go on.
func (e *Encoder) gap(reason GapReason, from history.Cursor) *engine.Frame {
	cursor := from.String()
	return e.word(cursor, "hub.gap", 0, []byte(`{"reason":"`+string(reason)+`","cursor":"`+cursor+`"}`))
}

// place tells a cursor alone.
func (e *Encoder) place(at history.Cursor) *engine.Frame {
	return engine.NewFrame(e.encoding.AppendPlace(nil, at.String()), false)
}

// frames are one message in each of the encodings that it is wanted in, made at most once
// each.
type frames struct {
	first frame
	more  []frame // streams are rarely of several kinds
}

type frame struct {
	encoder *Encoder
	data    *engine.Frame // nil: not made yet
}

// of is where the frame in an encoding is, or is to be put.
func (f *frames) of(e *Encoder) **engine.Frame {
	if f.first.encoder == e {
		return &f.first.data
	}
	if f.first.encoder == nil {
		f.first.encoder = e
		return &f.first.data
	}
	for i := range f.more {
		if f.more[i].encoder == e {
			return &f.more[i].data
		}
	}
	f.more = append(f.more, frame{encoder: e})
	return &f.more[len(f.more)-1].data
}

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
