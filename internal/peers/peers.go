// Package peers lets processes that share a NATS broker know of each other: who is
// there, and of each a set of small items by topic, which all who hold a topic see.
// Nothing is stored: each process owns its items and tells of changes; versions
// show what was lost, and a snapshot of one's items mends it.
package peers

import (
	"context"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// ErrGone: there is no such process, or it does not answer.
var ErrGone = errors.New("that process does not answer")

// Times and sizes.
const (
	beatEvery   = 2 * time.Second
	gatherFor   = 50 * time.Millisecond // changes that come one after the other
	askTimeout  = time.Second
	rollCall    = 100 * time.Millisecond
	holdTimeout = 500 * time.Millisecond // to hear what others have of a topic
	chunkBytes  = 256 << 10
	inboxSize   = 1 << 16
)

// Silence is how long a process may be silent until it is given up.
const Silence = 10 * time.Second

// ID names an item among those of its topic, whosever it is.
type ID = [16]byte

// Op is a change of an item; Data nil: it has gone.
type Op struct {
	ID   ID
	Data []byte
}

// Change is what another process told of its items of one topic.
type Change struct {
	Topic, Node string
	Ops         []Op
	// Known says that it is what there was when the topic was taken up: no news.
	Known bool
	// At is when items went that went with their process; else zero.
	At time.Time
}

// Config is what Peers needs to know.
type Config struct {
	Prefix string
	Node   string      // this process's name, new each time it starts
	Able   func() bool // to hear the others; while not, nobody is given up
	Logger *slog.Logger

	// Items are this process's own of a topic.
	Items func(topic string) []Op
	// Changed takes others' changes, one after the other.
	Changed func(Change)
	// Told takes what Tell sent.
	Told func(topic string, data []byte)
	// Serve answers another's Ask.
	Serve func(data []byte) []byte
	// Resynced is called after we were cut off: what others asked was not heard.
	Resynced func()
}

// Peers is one process's side.
//
// Lock order: sending → mu, changing → mu; mu is a leaf.
type Peers struct {
	cfg   Config
	nc    *nats.Conn
	in    chan *nats.Msg
	inbox string
	subs  []*nats.Subscription
	kick  chan struct{}
	ended chan struct{}
	done  sync.WaitGroup

	sending  sync.Mutex // held from a version's making to its sending
	changing sync.Mutex // held from what is known to Changed

	mu sync.Mutex
	// Guarded by mu.
	pending map[string][]Op      // not told yet
	version map[string]uint64    // of our own topics
	recent  map[string]int       // beats in which a topic's version is told once more
	holds   map[string]*hold     // topics that we hold
	nodes   map[string]time.Time // others, and when they were last heard
	left    map[string]struct{}  // others that said good-bye
	able    time.Time            // since when we hear the others; zero: we don't
}

// hold is a topic that we hold.
type hold struct {
	refs  int
	sub   *nats.Subscription
	ready chan struct{}         // closed when the others have told what they have
	of    map[string]*remoteSet // by node
	begun time.Time
	first map[string]struct{} // who was there when it begun, and has not told yet
}

// knows says whether a node's first word of a topic is of what was there already.
func (h *hold) knows(node string) bool {
	_, first := h.first[node]
	delete(h.first, node)
	return first || time.Since(h.begun) < beatEvery // who is there is heard by then
}

// remoteSet is what another process has.
type remoteSet struct {
	heard   bool // its first snapshot has come
	known   bool // the snapshot that comes is of what was there already
	asked   time.Time
	version uint64
	ids     map[ID]struct{}
	partial map[ID]struct{} // of a snapshot in several messages
}

// The kinds of messages: their first byte.
const (
	kindBeat     = 'b' // node
	kindBye      = 'e' // node
	kindDelta    = 'd' // node, topic, version before, version after, ops
	kindTell     = 't' // node, topic, data
	kindWant     = 'w' // node, topic; the answer goes to its inbox
	kindSnapshot = 's' // node, topic, version, 1 for the first part and 2 for the last, ops
	kindAsk      = 'q' // node, data
)

// Of a snapshot in several messages.
const (
	firstPart = 1
	lastPart  = 2
)

// Start joins the others.
func Start(nc *nats.Conn, cfg Config) (*Peers, error) {
	p := &Peers{
		cfg: cfg, nc: nc, in: make(chan *nats.Msg, inboxSize), inbox: nc.NewRespInbox(),
		kick: make(chan struct{}, 1), ended: make(chan struct{}),
		pending: map[string][]Op{}, version: map[string]uint64{}, recent: map[string]int{},
		holds: map[string]*hold{}, nodes: map[string]time.Time{}, left: map[string]struct{}{},
	}
	for _, subject := range []string{cfg.Prefix + ".peer.all", p.nodeSubject(cfg.Node), p.inbox} {
		sub, err := nc.ChanSubscribe(subject, p.in)
		if err != nil {
			return nil, err
		}
		p.subs = append(p.subs, sub)
	}
	p.done.Go(p.run)
	p.done.Go(p.flushes)
	p.done.Go(p.beats)
	if err := p.send(cfg.Prefix+".peer.all", frame(kindBeat, cfg.Node)); err != nil {
		return nil, err
	}
	if err := nc.Flush(); err != nil {
		return nil, err
	}
	time.Sleep(rollCall) // who is there answers
	return p, nil
}

// Close says good-bye and ends.
func (p *Peers) Close() {
	p.flush()
	p.send(p.cfg.Prefix+".peer.all", frame(kindBye, p.cfg.Node))
	p.nc.FlushTimeout(time.Second)
	close(p.ended)
	for _, sub := range p.subs {
		sub.Unsubscribe()
	}
	p.mu.Lock()
	for _, h := range p.holds {
		h.sub.Unsubscribe()
	}
	p.mu.Unlock()
	p.done.Wait()
}

func (p *Peers) nodeSubject(node string) string { return p.cfg.Prefix + ".peer.node." + node }

func (p *Peers) topicSubject(topic string) string {
	return p.cfg.Prefix + ".peer.topic." + base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString([]byte(topic))
}

func (p *Peers) send(subject string, data []byte) error { return p.nc.Publish(subject, data) }

// frame begins a message: its kind, then texts.
func frame(kind byte, texts ...string) []byte {
	b := []byte{kind}
	for _, text := range texts {
		b = appendText(b, text)
	}
	return b
}

func appendText[T string | []byte](b []byte, text T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

// reader takes a message apart; past its end all is empty, and bad is set.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) number() uint64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 {
		r.b, r.bad = nil, true
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *reader) bytes() []byte {
	n := r.number()
	if n > uint64(len(r.b)) {
		r.b, r.bad = nil, true
		return nil
	}
	text := r.b[:n:n]
	r.b = r.b[n:]
	return text
}

func (r *reader) ops() (ops []Op) {
	for len(r.b) > len(ID{}) && !r.bad {
		op := Op{ID: ID(r.b[:len(ID{})])}
		r.b = r.b[len(ID{}):]
		if data := r.bytes(); len(data) > 0 {
			op.Data = data
		}
		ops = append(ops, op)
	}
	return ops
}

func appendOp(b []byte, op Op) []byte { return appendText(append(b, op.ID[:]...), op.Data) }

// Tell says that an item of ours has changed, or has gone. Those of one topic are
// told in order; many at once are told together.
func (p *Peers) Tell(topic string, op Op) {
	p.mu.Lock()
	p.pending[topic] = append(p.pending[topic], op)
	p.mu.Unlock()
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

func (p *Peers) flushes() {
	for {
		select {
		case <-p.kick:
			p.flush()
		case <-p.ended:
			return
		}
		select { // what comes now is gathered
		case <-time.After(gatherFor):
		case <-p.ended:
			return
		}
	}
}

func (p *Peers) flush() {
	p.sending.Lock()
	defer p.sending.Unlock()
	p.mu.Lock()
	all := p.pending
	p.pending = map[string][]Op{}
	p.mu.Unlock()
	for topic, ops := range all {
		for len(ops) > 0 {
			p.mu.Lock()
			from := p.version[topic]
			to := max(from+1, uint64(time.Now().UnixMicro())) // more than any that was forgotten
			p.version[topic] = to
			p.recent[topic] = 2
			p.mu.Unlock()
			b := binary.AppendUvarint(binary.AppendUvarint(frame(kindDelta, p.cfg.Node, topic), from), to)
			n := 0
			for n < len(ops) && len(b) < chunkBytes {
				b = appendOp(b, ops[n])
				n++
			}
			ops = ops[n:]
			p.send(p.topicSubject(topic), b) // if it is lost, the version tells
		}
	}
}

// Cast hands data to all others who hold a topic.
func (p *Peers) Cast(topic string, data []byte) error {
	return p.send(p.topicSubject(topic), append(frame(kindTell, p.cfg.Node, topic), data...))
}

// Ask has one process answer, within a second or as long as ctx says; ErrGone where
// it does not.
func (p *Peers) Ask(ctx context.Context, node string, data []byte) ([]byte, error) {
	if _, limited := ctx.Deadline(); !limited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, askTimeout)
		defer cancel()
	}
	answer, err := p.nc.RequestWithContext(ctx, p.nodeSubject(node), append(frame(kindAsk, p.cfg.Node), data...))
	if err != nil {
		return nil, errors.Join(ErrGone, err)
	}
	return answer.Data, nil
}

// AskAll has all others answer; who does not is in silent.
func (p *Peers) AskAll(ctx context.Context, data []byte) (answers [][]byte, silent []string) {
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, node := range p.Nodes() {
		all.Go(func() {
			answer, err := p.Ask(ctx, node, data)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				silent = append(silent, node)
			} else {
				answers = append(answers, answer)
			}
		})
	}
	all.Wait()
	return answers, silent
}

// Nodes are the others that are there.
func (p *Peers) Nodes() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(maps.Keys(p.nodes))
}

// Hold has Changed told of all that others have of a topic, and returns when those
// that are there have told, or do not answer. Each Hold takes one Release.
func (p *Peers) Hold(ctx context.Context, topic string) error {
	p.mu.Lock()
	h := p.holds[topic]
	first := h == nil
	if first {
		h = &hold{ready: make(chan struct{}), of: map[string]*remoteSet{}, begun: time.Now(), first: map[string]struct{}{}}
		for node := range p.nodes {
			h.first[node] = struct{}{}
		}
		sub, err := p.nc.ChanSubscribe(p.topicSubject(topic), p.in)
		if err != nil {
			p.mu.Unlock()
			return err
		}
		h.sub = sub
		p.holds[topic] = h
		if len(p.nodes) == 0 {
			close(h.ready)
		}
	}
	h.refs++
	p.mu.Unlock()
	if first {
		if err := p.want(p.cfg.Prefix+".peer.all", topic); err != nil {
			p.cfg.Logger.Debug("peers", "err", err) // it is asked again when we hear them
		}
	}
	timer := time.NewTimer(holdTimeout)
	defer timer.Stop()
	select {
	case <-h.ready:
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil
}

// Release ends one Hold; with the last all that others have of the topic is as
// unknown as before, without a Change.
func (p *Peers) Release(topic string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if h := p.holds[topic]; h != nil {
		if h.refs--; h.refs == 0 {
			h.sub.Unsubscribe()
			delete(p.holds, topic)
		}
	}
}

// want asks for snapshots of a topic.
func (p *Peers) want(subject, topic string) error {
	return p.nc.PublishRequest(subject, p.inbox, frame(kindWant, p.cfg.Node, topic))
}

func (p *Peers) run() {
	for {
		select {
		case msg := <-p.in:
			p.take(msg)
		case <-p.ended:
			return
		}
	}
}

func (p *Peers) take(msg *nats.Msg) {
	if len(msg.Data) == 0 {
		return
	}
	r := &reader{b: msg.Data[1:]}
	node := string(r.bytes())
	if r.bad || node == p.cfg.Node || node == "" {
		return
	}
	if msg.Data[0] == kindBye {
		p.mu.Lock()
		p.left[node] = struct{}{} // what it sent before may come after
		p.mu.Unlock()
		p.drop(node, time.Now())
		return
	}
	if !p.heard(node) {
		return
	}
	if msg.Data[0] == kindBeat && msg.Subject == p.nodeSubject(p.cfg.Node) {
		p.done.Go(p.cfg.Resynced) // it knows us only now: what it asked all before, it did not ask us
	}
	switch msg.Data[0] {
	case kindDelta:
		topic := string(r.bytes())
		p.delta(node, topic, r.number(), r.number(), r)
	case kindSnapshot:
		topic := string(r.bytes())
		p.snapshot(node, topic, r.number(), r.number(), r)
	case kindTell:
		topic := string(r.bytes())
		if !r.bad {
			p.cfg.Told(topic, r.b)
		}
	case kindWant:
		topic, reply := string(r.bytes()), msg.Reply
		p.done.Go(func() { p.tellAll(topic, reply) })
	case kindAsk:
		p.done.Go(func() { msg.Respond(p.cfg.Serve(r.b)) })
	}
}

// heard notes a sign of life. Of a process that is new to us, or was silent for
// longer than its beats are apart, all is asked. It says whether the process is there.
func (p *Peers) heard(node string) bool {
	now := time.Now()
	p.mu.Lock()
	if _, left := p.left[node]; left {
		p.mu.Unlock()
		return false
	}
	last, known := p.nodes[node]
	p.nodes[node] = now
	missed := known && now.Sub(last) > beatEvery*3/2
	var topics []string
	if !known || missed {
		topics = slices.Collect(maps.Keys(p.holds))
	}
	p.mu.Unlock()
	if !known {
		p.cfg.Logger.Info("another hub", "node", node)
		p.send(p.nodeSubject(node), frame(kindBeat, p.cfg.Node)) // so that it knows us at once
	}
	for _, topic := range topics {
		p.want(p.nodeSubject(node), topic)
	}
	return true
}

// tellAll answers with all of our items of a topic.
func (p *Peers) tellAll(topic, reply string) {
	p.sending.Lock()
	defer p.sending.Unlock()
	items := p.cfg.Items(topic)
	p.mu.Lock()
	version := p.version[topic]
	p.mu.Unlock()
	for first := true; first || len(items) > 0; first = false {
		var b []byte
		n := 0
		for n < len(items) && len(b) < chunkBytes {
			b = appendOp(b, items[n])
			n++
		}
		items = items[n:]
		part := uint64(0)
		if first {
			part = firstPart
		}
		if len(items) == 0 {
			part |= lastPart
		}
		head := binary.AppendUvarint(binary.AppendUvarint(frame(kindSnapshot, p.cfg.Node, topic), version), part)
		p.send(reply, append(head, b...))
	}
}

// set is what a node has of a topic that we hold, nil when we don't.
func (p *Peers) setLocked(node, topic string) *remoteSet {
	h := p.holds[topic]
	if h == nil {
		return nil
	}
	s := h.of[node]
	if s == nil {
		s = &remoteSet{ids: map[ID]struct{}{}}
		h.of[node] = s
	}
	return s
}

func (p *Peers) delta(node, topic string, from, to uint64, r *reader) {
	p.changing.Lock()
	defer p.changing.Unlock()
	ops := r.ops()
	p.mu.Lock()
	s := p.setLocked(node, topic)
	if s == nil || r.bad {
		p.mu.Unlock()
		return
	}
	if from != s.version || !s.heard {
		again := (to > s.version || !s.heard) && time.Since(s.asked) > askTimeout
		if again {
			s.asked = time.Now()
		}
		p.mu.Unlock()
		if again {
			p.want(p.nodeSubject(node), topic)
		}
		return
	}
	s.version = to
	for _, op := range ops {
		if op.Data == nil {
			delete(s.ids, op.ID)
		} else {
			s.ids[op.ID] = struct{}{}
		}
	}
	p.mu.Unlock()
	if len(ops) > 0 {
		p.cfg.Changed(Change{Topic: topic, Node: node, Ops: ops})
	}
}

func (p *Peers) snapshot(node, topic string, version, part uint64, r *reader) {
	p.changing.Lock()
	defer p.changing.Unlock()
	ops := r.ops()
	p.mu.Lock()
	s := p.setLocked(node, topic)
	if s == nil || r.bad || s.partial == nil && part&firstPart == 0 {
		p.mu.Unlock()
		return
	}
	if s.heard && s.version == version {
		s.partial = nil // it says nothing new
		p.mu.Unlock()
		return
	}
	if part&firstPart != 0 {
		s.partial = map[ID]struct{}{}
		s.known = !s.heard && p.holds[topic].knows(node)
	}
	for _, op := range ops {
		s.partial[op.ID] = struct{}{}
	}
	known := s.known
	if part&lastPart != 0 {
		for id := range s.ids {
			if _, still := s.partial[id]; !still {
				ops = append(ops, Op{ID: id})
			}
		}
		s.ids, s.partial = s.partial, nil
		s.version, s.heard, s.asked = version, true, time.Time{}
	} else {
		for _, op := range ops {
			s.ids[op.ID] = struct{}{}
		}
	}
	p.mu.Unlock()
	if len(ops) > 0 {
		p.cfg.Changed(Change{Topic: topic, Node: node, Ops: ops, Known: known})
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if h := p.holds[topic]; h != nil {
		p.readyLocked(h)
	}
}

// readyLocked closes a hold's ready when all that are there have told.
func (p *Peers) readyLocked(h *hold) {
	for node, heard := range p.nodes {
		if s := h.of[node]; (s == nil || !s.heard) && time.Since(heard) < 2*beatEvery {
			return
		}
	}
	select {
	case <-h.ready:
	default:
		close(h.ready)
	}
}

// drop forgets a process and all it has.
func (p *Peers) drop(node string, at time.Time) {
	p.changing.Lock()
	defer p.changing.Unlock()
	var changes []Change
	p.mu.Lock()
	if _, known := p.nodes[node]; known {
		delete(p.nodes, node)
		p.cfg.Logger.Info("another hub is gone", "node", node)
	}
	for topic, h := range p.holds {
		s := h.of[node]
		delete(h.of, node)
		delete(h.first, node)
		p.readyLocked(h)
		if s == nil || len(s.ids) == 0 {
			continue
		}
		c := Change{Topic: topic, Node: node, At: at}
		for id := range s.ids {
			c.Ops = append(c.Ops, Op{ID: id})
		}
		changes = append(changes, c)
	}
	p.mu.Unlock()
	for _, c := range changes {
		p.cfg.Changed(c)
	}
}

func (p *Peers) beats() {
	status := p.nc.StatusChanged(nats.CONNECTED)
	defer p.nc.RemoveStatusListener(status)
	ticker := time.NewTicker(beatEvery / 2)
	defer ticker.Stop()
	for n := 0; ; n++ {
		select {
		case <-p.ended:
			return
		case <-status:
			p.resync()
			p.done.Go(p.cfg.Resynced)
		case now := <-ticker.C:
			if n%2 == 0 {
				p.beat()
			}
			p.giveUp(now)
		}
	}
}

func (p *Peers) beat() {
	p.send(p.cfg.Prefix+".peer.all", frame(kindBeat, p.cfg.Node))
	p.mu.Lock()
	var topics []string
	for topic, n := range p.recent {
		if topics = append(topics, topic); n == 1 {
			delete(p.recent, topic)
		} else {
			p.recent[topic] = n - 1
		}
	}
	p.mu.Unlock()
	p.check(topics)
	for _, topic := range topics {
		empty := len(p.cfg.Items(topic)) == 0
		p.mu.Lock()
		if p.recent[topic] == 0 && empty && len(p.pending[topic]) == 0 {
			delete(p.version, topic)
		}
		p.mu.Unlock()
	}
}

// check tells the versions of topics: who has another asks.
func (p *Peers) check(topics []string) {
	p.sending.Lock()
	defer p.sending.Unlock()
	for _, topic := range topics {
		p.mu.Lock()
		v := p.version[topic]
		p.mu.Unlock()
		p.send(p.topicSubject(topic), binary.AppendUvarint(binary.AppendUvarint(frame(kindDelta, p.cfg.Node, topic), v), v))
	}
}

// resync catches up, both ways, after we were cut off.
func (p *Peers) resync() {
	p.mu.Lock()
	own, held := slices.Collect(maps.Keys(p.version)), slices.Collect(maps.Keys(p.holds))
	p.mu.Unlock()
	p.send(p.cfg.Prefix+".peer.all", frame(kindBeat, p.cfg.Node))
	p.check(own)
	for _, topic := range held {
		p.want(p.cfg.Prefix+".peer.all", topic)
	}
}

// giveUp drops those that were silent for too long, while we could hear them.
func (p *Peers) giveUp(now time.Time) {
	able := p.cfg.Able()
	silent := map[string]time.Time{}
	p.mu.Lock()
	again := able && p.able.IsZero()
	switch {
	case !able:
		p.able = time.Time{}
	case again:
		p.able = now
	}
	if able {
		for node, heard := range p.nodes {
			if now.Sub(heard) >= Silence && now.Sub(p.able) >= Silence {
				silent[node] = heard
			}
		}
	}
	p.mu.Unlock()
	if again {
		p.resync()
		p.done.Go(p.cfg.Resynced)
	}
	for node, heard := range silent {
		p.cfg.Logger.Warn("another hub is silent and is given up", "node", node)
		p.drop(node, heard)
	}
}
