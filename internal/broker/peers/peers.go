package peers

import (
	"context"
	"encoding/base32"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// Times and sizes.
const (
	beatEvery   = 2 * time.Second
	gatherFor   = 50 * time.Millisecond // changes that come one after the other
	askTimeout  = time.Second
	answerTime  = 100 * time.Millisecond // for those that are there to answer
	answerMost  = beatEvery * 3 / 2      // until the first of the others answers: their beats are heard by then
	holdTimeout = 500 * time.Millisecond // to hear what others have of a topic

	completeEvery = 5 * time.Millisecond
	chunkBytes    = 256 << 10
	inboxSize     = 1 << 16
)

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
	// Sure says why it may be we who are cut off, and not who is silent: before anybody is
	// given up it is asked, and may take a second. Able may be late.
	Sure   func(context.Context) error
	Logger *slog.Logger

	// Items are this process's own of a topic; Any says whether there are any, at no cost.
	Items func(topic string) []Op
	Any   func(topic string) bool
	// Changed takes others' changes, one after the other. Has are the items that another has by
	// them, of a topic that is held: they are kept once.
	Changed func(Change)
	Has     func(topic, node string) []ID
	// Told takes what another Cast.
	Told func(topic string, data []byte)
	// Serve answers another's Ask.
	Serve func(data []byte) []byte
	// Resynced is called after we were cut off, one call after the other: what others
	// asked was not heard.
	Resynced func()
}

// Peers is one process's side.
//
// Lock order: sending → mu, changing → mu; mu is a leaf.
type Peers struct {
	cfg    Config
	nc     *nats.Conn
	in     chan *nats.Msg
	inbox  string
	subs   []*nats.Subscription
	unread chan chan struct{} // closes what it gets when all that has come until now is read
	kick   chan struct{}
	again  chan struct{} // Resynced is to be called
	met    chan struct{} // closed when another was heard, or the broker says that there is none
	ended  chan struct{}
	done   sync.WaitGroup
	begun  time.Time

	meeting  sync.Once
	sending  sync.Mutex // held from a version's making to its sending
	changing sync.Mutex // held from what is known to Changed

	mu sync.Mutex
	// Guarded by mu.
	pending map[string][]Op      // not told yet
	version map[string]uint64    // of our own topics
	recent  map[string]int       // beats in which a topic's version is told once more
	holds   map[string]*hold     // topics that we hold
	nodes   map[string]*node     // others that are there
	lost    map[string]time.Time // others that were given up, and when
	left    map[string]time.Time // others that said good-bye, and when
	able    time.Time            // since when we hear the others; zero: we don't
	looked  time.Time            // when silence was last looked for
	doubted bool                 // Sure is being asked
}

// node is another process that is there.
type node struct {
	heard  time.Time
	absent bool // nobody is at the broker by its name, as of the last question

	lacks    map[string]time.Time // topics of which we may lack something, and when it was asked; zero: not yet
	missed   time.Time            // when all of it was last noted
	looked   time.Time            // when what it has not answered was last looked for
	told     time.Time            // when it last answered
	answered time.Time            // when it was asked what it has answered: the last of it
}

// Start joins the others.
func Start(nc *nats.Conn, cfg Config) (*Peers, error) {
	p := &Peers{
		cfg: cfg, nc: nc, in: make(chan *nats.Msg, inboxSize), inbox: nc.NewRespInbox(),
		unread: make(chan chan struct{}), kick: make(chan struct{}, 1), again: make(chan struct{}, 1), met: make(chan struct{}), ended: make(chan struct{}), begun: time.Now(),
		pending: map[string][]Op{}, version: map[string]uint64{}, recent: map[string]int{},
		holds: map[string]*hold{}, nodes: map[string]*node{}, lost: map[string]time.Time{}, left: map[string]time.Time{},
	}
	for _, subject := range []string{p.all(), p.nodeSubject(cfg.Node), p.inbox + ".*"} {
		sub, err := nc.ChanSubscribe(subject, p.in)
		if err != nil {
			return nil, err
		}
		p.subs = append(p.subs, sub)
	}
	p.done.Go(p.run)
	p.done.Go(p.flushes)
	p.done.Go(p.beats)
	p.done.Go(p.resyncs)
	if err := p.nc.PublishRequest(p.all(), p.inbox+"."+nobody, frame(kindBeat, cfg.Node)); err != nil {
		return nil, err
	}
	if err := nc.Flush(); err != nil {
		return nil, err
	}
	time.Sleep(answerTime)
	select {
	case <-p.met: // and names the others
	case <-time.After(answerMost - answerTime):
	}
	return p, nil
}

// nobody stands for all others where the broker says that nobody is there.
const nobody = "nobody"

// meet notes that it is known whether there are others.
func (p *Peers) meet() { p.meeting.Do(func() { close(p.met) }) }

// Close says good-bye and ends.
func (p *Peers) Close() {
	p.flush()
	p.nc.Publish(p.all(), frame(kindBye, p.cfg.Node))
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

// all is the subject that every process hears.
func (p *Peers) all() string { return p.cfg.Prefix + ".peer.all" }

func (p *Peers) nodeSubject(node string) string { return p.cfg.Prefix + ".peer.node." + node }

func (p *Peers) topicSubject(topic string) string {
	return p.cfg.Prefix + ".peer.topic." + base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString([]byte(topic))
}

func (p *Peers) run() {
	for {
		select {
		case msg := <-p.in:
			p.take(msg)
		case read := <-p.unread:
			for range len(p.in) {
				p.take(<-p.in)
			}
			close(read)
		case <-p.ended:
			return
		}
	}
}

func (p *Peers) take(msg *nats.Msg) {
	if len(msg.Data) == 0 {
		switch name, ok := strings.CutPrefix(msg.Subject, p.inbox+"."); { // the broker's: nobody is there
		case name == nobody:
			p.meet()
		case ok:
			p.absent(name)
		}
		return
	}
	r := &reader{b: msg.Data[1:]}
	name := string(r.bytes())
	if r.bad || name == p.cfg.Node || name == "" {
		return
	}
	if msg.Data[0] == kindBye {
		p.mu.Lock()
		p.left[name] = time.Now() // what it sent before may come after
		delete(p.lost, name)
		p.mu.Unlock()
		p.drop(name, time.Now(), false)
		return
	}
	if !p.heard(name) {
		return
	}
	switch msg.Data[0] {
	case kindBeat:
		if msg.Subject == p.nodeSubject(p.cfg.Node) {
			p.hearsay(r)
			p.resynced() // it knows us only now: what it asked all before, it did not ask us
		}
	case kindDelta:
		topic := string(r.bytes())
		p.delta(name, topic, r.number(), r.number(), r)
	case kindSnapshot:
		topic := string(r.bytes())
		p.snapshot(name, topic, r.number(), r.number(), r)
	case kindCast:
		topic := string(r.bytes())
		if !r.bad {
			p.cfg.Told(topic, r.b)
		}
	case kindWant:
		topic, reply := string(r.bytes()), msg.Reply
		p.done.Go(func() { p.tellAll(topic, reply) })
	case kindAsk:
		p.done.Go(func() {
			if err := msg.Respond(p.cfg.Serve(r.b)); err != nil {
				p.cfg.Logger.Warn("could not answer another hub's call", "node", name, "err", err)
				msg.Respond(nil) // so that it need not wait
			}
		})
	}
}
