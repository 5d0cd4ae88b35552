package journal

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	pumps    = 2       // what follows different keys is handled beside each other
	pumpSize = 1 << 16 // messages that may wait; more are lost, and read back
	// pumpTogether is how many messages are flushed together at the most: nobody's
	// answer waits for more.
	pumpTogether = 64
	// echoTime is how long after its acknowledgement our own message may take to come
	// before it is read back.
	echoTime = 100 * time.Millisecond
	// passTime is how long items that go with others are kept until those come.
	passTime = 5 * time.Second
	// mostHeld is how many messages of a key wait while what came before is read back.
	mostHeld = 4096
	// sweepKeys is how many keys the broker looks up at once.
	sweepKeys = 1024
	// quietKeys is how many places are moved on in one sweep at the most.
	quietKeys = 64
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
	known     uint64    // the last place that is known to exist
	part      []Message // of an append that is not whole yet
	ready     []ready   // taken, waits for Prepare
	preparing bool
	repairing bool
	held      []Message       // came while what is before them is read back
	early     []pass          // that go with what has not come
	life      uint64          // counts how often it began anew
	fresh     bool            // something was handled since the last Flush
	handled   []chan struct{} // to be closed after it
	closed    bool

	refs int // guarded by Journal.mu
}

// ready is what is handed over next. done, if any, is closed after it.
type ready struct {
	items []*Item
	done  chan struct{}
	life  uint64 // the feed's, when it was taken
}

// pass is an item that goes with messages.
type pass struct {
	origin  origin
	item    *Item
	came    time.Time
	waiting bool // for its messages; else they were there before it
}

// Attach follows a key from its head on, which is returned: all after it is handed
// over, in order and once. Each Attach takes one Detach.
func (j *Journal) Attach(ctx context.Context, key string) (head uint64, err error) {
	j.mu.Lock()
	f := j.feeds[key]
	first := f == nil
	if first {
		f = &feed{j: j, key: key, opened: make(chan struct{}), repairing: true, life: 1}
		j.feeds[key], j.names[token(key)] = f, f
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
			return 0, ctx.Err()
		}
	}
	if f.err != nil {
		j.Detach(key)
		return 0, f.err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.place, nil
}

// open subscribes, then asks: all that the leader keeps after its answer reaches us.
// What comes meanwhile is held, as while a gap is read back.
func (f *feed) open(ctx context.Context) error {
	name := token(f.key)
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
		f.place, f.taken, f.known = s.last, s.last, max(f.known, s.last)
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
			delete(j.names, token(key))
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
	return j.last(ctx, j.cfg.Prefix+".ev."+token(key))
}

// Reach waits until a followed key was handed over up to a place that exists.
func (j *Journal) Reach(ctx context.Context, key string, place uint64) error {
	f := j.feed(key)
	if f == nil {
		return nil
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 20*time.Millisecond) {
		f.mu.Lock()
		f.knowLocked(place)
		reached := f.place >= place || f.closed
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
		case <-j.ended:
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
		f.passLocked(&Item{Key: f.key, Data: msg.Data, Pass: true}, parseOrigin(msg.Header.Get(originHeader)))
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
	if m.prev <= f.taken && !f.repairing {
		f.takeLocked(m)
		return
	}
	if len(f.held) == mostHeld {
		f.held = nil
	}
	f.held = append(f.held, m)
	f.knowLocked(m.Seq)
}

// takeLocked takes the next message.
func (f *feed) takeLocked(m Message) {
	if m.Seq <= f.taken || f.closed {
		return
	}
	f.j.saw(m.Seq)
	f.taken, f.known = m.Seq, max(f.known, m.Seq)
	if len(f.part) > 0 && (f.part[0].origin.node != m.origin.node || f.part[0].origin.number != m.origin.number) {
		f.giveLocked(f.assembleLocked()) // its end has gone from the history
	}
	f.part = append(f.part, m)
	if m.origin.at >= m.origin.of-1 {
		f.giveLocked(f.assembleLocked())
	}
}

// giveLocked hands something over, after what waits.
func (f *feed) giveLocked(r ready) {
	r.life = f.life
	if f.j.cfg.Prepare == nil {
		f.handleLocked(r)
		return
	}
	f.ready = append(f.ready, r)
	if !f.preparing {
		f.preparing = true
		f.j.done.Go(f.prepare)
	}
}

func (f *feed) prepare() {
	f.mu.Lock()
	for len(f.ready) > 0 && !f.closed {
		r := f.ready[0]
		f.ready = f.ready[1:]
		f.mu.Unlock()
		f.j.cfg.Prepare(f.key, r.items)
		f.mu.Lock()
		f.handleLocked(r)
		f.unlock()
		f.mu.Lock()
	}
	f.preparing = false
	for _, r := range f.ready { // it is closed
		if r.done != nil {
			close(r.done)
		}
	}
	f.ready = nil
	f.unlock()
}

func (f *feed) handleLocked(r ready) {
	if r.life == f.life { // else its places are of another life
		f.j.cfg.Handle(f.key, r.items)
		f.fresh = true
		for _, it := range r.items {
			if !it.Pass {
				f.place = max(f.place, it.Seq)
			}
		}
	}
	if r.done != nil {
		f.handled = append(f.handled, r.done)
	}
}

// assembleLocked makes items of messages: our own as they were given to Append, and
// others with what was passed beside them in its place.
func (f *feed) assembleLocked() ready {
	part := f.part
	f.part = nil
	o := part[0].origin
	if o.node == f.j.cfg.Node && len(part) == o.of {
		if items, done := f.j.takeOwn(f.key, o); items != nil {
			i := 0
			for _, it := range items {
				if !it.Pass {
					it.Seq, it.At = part[i].Seq, part[i].At
					i++
				}
			}
			return ready{items: items, done: done}
		}
	}
	var beside []pass
	if o.passes > 0 {
		now := time.Now()
		keep := f.early[:0]
		for _, p := range f.early {
			switch {
			case p.waiting && p.origin.node == o.node && p.origin.number == o.number:
				beside = append(beside, p)
			case now.Sub(p.came) < passTime:
				keep = append(keep, p)
			}
		}
		f.early = append(keep, pass{origin: o, came: now}) // the messages were here
	}
	var items []*Item
	for i, m := range part {
		for len(beside) > 0 && beside[0].origin.at <= i {
			items = append(items, beside[0].item)
			beside = beside[1:]
		}
		items = append(items, &Item{Key: f.key, Data: m.Data, Seq: m.Seq, At: m.At})
	}
	for _, p := range beside {
		items = append(items, p.item)
	}
	return ready{items: items}
}

// passLocked hands on an item that is not kept; one that goes with messages waits
// for them, unless they were here.
func (f *feed) passLocked(it *Item, o origin) {
	if f.closed {
		return
	}
	if o.of > 0 && o.node != "" {
		came := slices.ContainsFunc(f.early, func(p pass) bool {
			return !p.waiting && p.origin.node == o.node && p.origin.number == o.number
		})
		if !came {
			now := time.Now()
			f.early = slices.DeleteFunc(f.early, func(p pass) bool { return now.Sub(p.came) >= passTime })
			if len(f.early) < mostHeld {
				f.early = append(f.early, pass{o, it, now, true})
			}
			return
		}
	}
	f.giveLocked(ready{items: []*Item{it}})
}

// passOwn hands our own items that are not kept to our own feed.
func (j *Journal) passOwn(key string, p *parcel) {
	f := j.feed(key)
	if f == nil {
		return
	}
	f.mu.Lock()
	if !f.closed {
		f.giveLocked(ready{items: p.items[key], done: p.done[key]})
		j.mu.Lock()
		p.taken[key] = true // Append waits for it
		j.mu.Unlock()
	}
	f.unlock()
}

// awaitOwn waits until our own items have reached our own feed, if the key is
// followed, and says whether they have.
func (j *Journal) awaitOwn(ctx context.Context, key string, p *parcel, seqs []uint64) bool {
	f := j.feed(key)
	if f == nil {
		return j.isTaken(key, p)
	}
	if len(seqs) == 0 { // nothing of it comes back
		j.passOwn(key, p)
		return true
	}
	last := seqs[len(seqs)-1]
	timer := time.NewTimer(echoTime)
	defer timer.Stop()
	for {
		f.mu.Lock()
		past := f.taken >= last || f.closed // if it is not taken from us, nobody will
		f.mu.Unlock()
		if past {
			return j.isTaken(key, p)
		}
		select {
		case <-p.done[key]:
			return true
		case <-timer.C:
			f.mu.Lock()
			f.knowLocked(last)
			f.mu.Unlock()
			timer.Reset(echoTime)
		case <-ctx.Done(): // it is kept, and will be read back
			return j.isTaken(key, p)
		case <-j.ended:
			return true
		}
	}
}

// isTaken says whether a feed has a key's items, and else sees to it that none will.
func (j *Journal) isTaken(key string, p *parcel) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !p.taken[key] {
		delete(p.items, key)
	}
	return p.taken[key]
}

// takeOwn takes a key's part of an append that is under way.
func (j *Journal) takeOwn(key string, o origin) ([]*Item, chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	p := j.own[o.number]
	if p == nil || p.items[key] == nil {
		return nil, nil
	}
	p.taken[key] = true
	return p.items[key], p.done[key]
}

// knowLocked says that a place exists: what is missing up to it is read back.
func (f *feed) knowLocked(seq uint64) {
	f.known = max(f.known, seq)
	if f.known > f.taken && !f.repairing && !f.closed {
		f.repairing = true
		f.j.done.Go(f.repair)
	}
}

// repair reads back what did not come.
func (f *feed) repair() {
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		ctx, cancel := context.WithTimeout(context.Background(), 4*askTimeout)
		err := f.readBack(ctx)
		cancel()
		f.mu.Lock()
		if f.closed || err == nil && f.known <= f.taken {
			f.repairing = false
			f.mu.Unlock()
			return
		}
		f.mu.Unlock()
		if err == nil {
			continue
		}
		f.j.cfg.Logger.Debug("not read back", "key", f.key, "err", err)
		select {
		case <-time.After(wait):
		case <-f.j.ended:
			return
		}
	}
}

func (f *feed) readBack(ctx context.Context) error {
	f.mu.Lock()
	from, known, life := f.taken, f.known, f.life
	f.mu.Unlock()
	if from < known {
		span, err := f.j.Span(ctx, f.key)
		if err == nil && from < span.Oldest {
			from, life = span.Oldest, f.lose(life, span.Oldest)
		}
		checked := false
		if err == nil {
			err = f.j.Read(ctx, f.key, from, known, func(list []Message) bool {
				if !checked { // something may have been trimmed between the two questions
					if span, err = f.j.Span(ctx, f.key); err != nil || from < span.Oldest {
						return false
					}
					checked = true
				}
				f.mu.Lock()
				same := f.life == life && !f.closed
				if same {
					for _, m := range list {
						f.takeLocked(m)
					}
				}
				f.unlock()
				return same
			})
		}
		if err == nil && from < span.Oldest && !checked {
			err = errStale // once more, from what there is
		}
		if err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.unlock()
	if f.life != life {
		return errStale
	}
	f.taken = max(f.taken, known) // what is not there has gone, or is another key's
	f.takeHeldLocked()
	if len(f.part) == 0 && len(f.ready) == 0 && !f.preparing {
		f.place = max(f.place, f.taken)
	}
	return nil
}

// lose goes on after a place that is not the next; it returns the life that begins,
// another than any where ours is over.
func (f *feed) lose(life, place uint64) uint64 {
	f.mu.Lock()
	if f.life != life {
		f.mu.Unlock()
		return 0
	}
	life = f.beginLocked(place, max(f.known, place))
	f.mu.Unlock()
	f.j.cfg.Lost(f.key, place)
	return life
}

// beginLocked begins anew after a place.
func (f *feed) beginLocked(place, known uint64) (life uint64) {
	f.part, f.early, f.held = nil, nil, nil
	f.taken, f.place, f.known = place, place, known
	f.life++
	return f.life
}

// restart takes up all keys in another life of the stream.
func (j *Journal) restart(last uint64) {
	j.mu.Lock()
	j.swept = last
	j.mu.Unlock()
	for _, f := range j.followed() {
		f.mu.Lock()
		f.beginLocked(last, last)
		f.mu.Unlock()
		j.cfg.Lost(f.key, last)
	}
}

// sweep looks for last messages that did not come: they have none after them that
// would tell. And it moves the places of quiet keys on before the stream leaves
// them behind.
func (j *Journal) sweep(ctx context.Context, s state) error {
	j.mu.Lock()
	from := j.swept
	names := make([]string, 0, len(j.names))
	feeds := make([]*feed, 0, len(j.feeds))
	for name, f := range j.names {
		names = append(names, j.cfg.Prefix+".ev."+name)
		feeds = append(feeds, f)
	}
	j.mu.Unlock()
	if s.last > from {
		upTo := s.last
		for some := range slices.Chunk(names, sweepKeys) {
			end, err := j.direct(ctx, get{Seq: from + 1, MultiLast: some}, func(msg *nats.Msg) {
				j.mu.Lock()
				f := j.names[strings.TrimPrefix(msg.Header.Get("Nats-Subject"), j.cfg.Prefix+".ev.")]
				j.mu.Unlock()
				if f != nil {
					f.mu.Lock()
					f.knowLocked(j.messageOf(msg).Seq)
					f.mu.Unlock()
				}
			})
			if err != nil {
				return err
			}
			if at := parseSeq(end.Get("Nats-UpTo-Sequence")); at > 0 && parseSeq(end.Get("Nats-Num-Pending")) == 0 {
				upTo = min(upTo, at) // the replica had no more
			} else {
				upTo = from // it had none of these keys, and may be behind; or too much of them
			}
		}
		j.mu.Lock()
		j.swept = max(j.swept, upTo)
		j.mu.Unlock()
	}
	far := (s.last - min(s.first, s.last)) / 4
	moved := 0
	for _, f := range feeds {
		if moved == quietKeys {
			break
		}
		place, idle := f.idle()
		if !idle || s.last <= place+far {
			continue
		}
		moved++
		switch next, err := j.next(ctx, j.cfg.Prefix+".ev."+token(f.key), place, s.last); {
		case err != nil:
			return err
		case next == 0: // the leader knows
			f.quiet(place, s.last)
		default:
			f.mu.Lock()
			f.knowLocked(next)
			f.mu.Unlock()
		}
	}
	return nil
}

// idle says whether a feed waits for nothing, and where.
func (f *feed) idle() (place uint64, idle bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.place, f.idleLocked()
}

func (f *feed) idleLocked() bool {
	return f.place == f.taken && f.known <= f.taken && !f.repairing && len(f.part)+len(f.ready) == 0 && !f.closed && !f.preparing
}

// quiet moves a feed's place on to where the leader knows of nothing for it.
func (f *feed) quiet(from, to uint64) {
	f.mu.Lock()
	moved := f.idleLocked() && f.place == from
	if moved {
		f.place, f.taken, f.known = to, to, to
	}
	f.mu.Unlock()
	if moved {
		f.j.cfg.Quiet(f.key, to)
	}
}
