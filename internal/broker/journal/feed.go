package journal

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"realtimehub/internal/broker/stream"
)

const (
	pumps    = 2       // what follows different keys is handled beside each other
	pumpSize = 1 << 16 // messages that may wait; more are lost, and read back
	// pumpTogether is how many messages are flushed together at the most: nobody's
	// answer waits for more.
	pumpTogether = 64
	// mostHeld is how many messages of a key wait while what came before is read back.
	mostHeld = 4096
)

// feed follows one key.
type feed struct {
	j   *Journal
	key string
	sub *nats.Subscription

	opened chan struct{} // closed when it follows, or cannot
	err    error         // why it cannot

	mu sync.Mutex
	// Guarded by mu.
	place     uint64    // Handle has had all up to here
	taken     uint64    // taken up to here, ≥ place
	last      uint64    // of those, the last that is a message
	lastAt    time.Time // when that was kept
	known     uint64    // the last place that is known to exist
	of        *life     // all those places are in
	had       bool      // a message, since it began
	part      []Message // of an append that is not whole yet
	ready     []ready   // taken, waits for Prepare
	readySize int       // bytes, of those
	overrun   bool      // they were too many, and are not handed over
	preparing bool
	repairing bool
	held      []Message       // came while what is before them is read back
	heldSize  int             // bytes, of those
	early     []pass          // that go with what has not come
	life      uint64          // counts how often it began anew
	fresh     bool            // something was handled since the last Flush
	handled   []chan struct{} // to be closed after it
	closed    bool

	refs int // guarded by Journal.mu
}

// Attach follows a key from its head on, which is returned with its epoch: all after it
// is handed over, in order and once. Each Attach takes one Detach.
func (j *Journal) Attach(ctx context.Context, key string) (head uint64, epoch string, err error) {
	j.mu.Lock()
	f := j.feeds[key]
	first := f == nil
	if first {
		f = &feed{j: j, key: key, opened: make(chan struct{}), repairing: true, life: 1, of: j.life.Load()}
		j.feeds[key], j.names[stream.Token(key)] = f, f
	}
	f.refs++
	j.mu.Unlock()
	if first {
		f.err = f.open(ctx)
		close(f.opened)
	} else {
		select {
		case <-f.opened:
		case <-ctx.Done():
			j.Detach(key)
			return 0, "", ctx.Err()
		}
	}
	if f.err != nil {
		j.Detach(key)
		return 0, "", f.err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.place, f.of.epoch, nil
}

// open subscribes, then asks: all that the leader keeps after its answer reaches us.
// What comes meanwhile is held, as while a gap is read back.
func (f *feed) open(ctx context.Context) error {
	name := stream.Token(f.key)
	sub, err := f.j.nc.ChanSubscribe(f.j.cfg.Prefix+".live."+name+".*", f.j.pumps[int(name[len(name)-1])%pumps])
	if err != nil {
		return err
	}
	s, err := f.j.state(ctx)
	if err != nil {
		sub.Unsubscribe()
		return err
	}
	f.mu.Lock()
	f.sub, f.repairing = sub, false
	if f.life == 1 { // else it has begun anew meanwhile
		f.place, f.taken, f.known = s.Last, s.Last, max(f.known, s.Last)
	}
	f.takeHeldLocked()
	f.knowLocked(f.known)
	f.unlock()
	return nil
}

// takeHeldLocked takes what was held, up to the next gap.
func (f *feed) takeHeldLocked() {
	held := f.held
	f.held = nil
	for i, m := range held {
		if m.Seq > f.taken && m.prev > f.taken {
			f.held = held[i:]
			return
		}
		f.heldSize -= len(m.Data)
		f.takeLocked(m)
	}
}

// Detach ends one Attach.
func (j *Journal) Detach(key string) {
	j.mu.Lock()
	f := j.feeds[key]
	last := false
	if f != nil {
		if f.refs--; f.refs == 0 {
			last = true
			delete(j.feeds, key)
			delete(j.names, stream.Token(key))
		}
	}
	j.mu.Unlock()
	if last {
		f.close()
	}
}

func (f *feed) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	if f.sub != nil {
		f.sub.Unsubscribe()
	}
}

func (j *Journal) followed() []*feed {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Collect(maps.Values(j.feeds))
}

// Last is the place of a key's last message that is kept, as the leader tells: 0 when
// there is none.
func (j *Journal) Last(ctx context.Context, key string) (uint64, error) {
	if _, err := j.state(ctx); err != nil { // who leads no more may not know of the last ones
		return 0, err
	}
	return j.stream.Last(ctx, j.subject(key))
}

// Reach waits until a followed key was handed over up to a place that exists in the life
// of an epoch, or that is over.
func (j *Journal) Reach(ctx context.Context, key, epoch string, place uint64) error {
	f := j.feed(key)
	if f == nil {
		return nil
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 20*time.Millisecond) {
		f.mu.Lock()
		reached := f.of.epoch != epoch || f.place >= place || f.closed
		if !reached {
			f.knowLocked(place)
		}
		f.mu.Unlock()
		if reached {
			return nil
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (j *Journal) feed(key string) *feed {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.feeds[key]
}

// pump takes what comes; what has come already is taken first, and flushed together.
func (j *Journal) pump(in chan *nats.Msg) {
	fresh := map[*feed]struct{}{}
	for n := 1; ; n++ {
		select {
		case msg := <-in:
			if f := j.live(msg); f != nil {
				fresh[f] = struct{}{}
			}
		case <-j.stream.Done():
			return
		}
		if len(in) == 0 || n >= pumpTogether {
			for f := range fresh {
				f.mu.Lock()
				f.unlock()
			}
			clear(fresh)
			n = 0
		}
	}
}

// live takes what the broker republishes, and what others pass; it returns the feed
// that is to be flushed.
func (j *Journal) live(msg *nats.Msg) *feed {
	name, kind, _ := strings.Cut(msg.Subject[len(j.cfg.Prefix)+len(".live."):], ".")
	j.mu.Lock()
	f := j.names[name]
	j.mu.Unlock()
	if f == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if kind == "pass" {
		f.passLocked(&Item{Key: f.key, Data: msg.Data, Pass: true, beside: msg.Header[besideHeader]}, parseOrigin(msg.Header.Get(originHeader)))
	} else {
		f.liveLocked(f.j.messageOf(msg))
	}
	if f.fresh {
		return f
	}
	return nil
}

// unlock flushes what was handled, once nobody is kept waiting by it.
func (f *feed) unlock() {
	fresh, handled := f.fresh, f.handled
	f.fresh, f.handled = false, nil
	f.mu.Unlock()
	if fresh {
		f.j.cfg.Flush(f.key)
	}
	for _, done := range handled {
		close(done)
	}
}

// liveLocked takes what was republished, or holds it while there is a gap before it.
func (f *feed) liveLocked(m Message) {
	if m.Seq <= f.taken || f.closed {
		return
	}
	if m.prev < f.last {
		f.missing(f.last)
	}
	// Where none is before it any more, one may have gone that did not come.
	if m.prev <= f.taken && !f.repairing && (m.prev > 0 || !f.had) && !f.of.over.Load() {
		f.takeLocked(m)
		return
	}
	if f.heldSize += len(m.Data); len(f.held) == mostHeld || f.heldSize > mostReadyBytes {
		f.held, f.heldSize = nil, len(m.Data) // they are read back as well
	}
	f.held = append(f.held, m)
	f.of.saw(m.Seq)
	f.knowLocked(m.Seq)
}

// takeLocked takes the next message.
func (f *feed) takeLocked(m Message) {
	if m.Seq <= f.taken || f.closed {
		return
	}
	f.of.saw(m.Seq)
	f.had = true
	f.taken, f.last, f.lastAt, f.known = m.Seq, m.Seq, m.At, max(f.known, m.Seq)
	if len(f.part) > 0 && (f.part[0].origin.node != m.origin.node || f.part[0].origin.number != m.origin.number) {
		f.giveLocked(f.assembleLocked()) // its end has gone from the history
	}
	f.part = append(f.part, m)
	if m.origin.at >= m.origin.of-1 {
		f.giveLocked(f.assembleLocked())
	}
}
