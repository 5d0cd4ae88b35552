package journal

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// readBatch is how many messages are asked for at once.
const readBatch = 512

// errStale: a replica has not yet what the leader told.
var errStale = errors.New("a replica of the stream is behind")

// get is a direct get: any replica answers, in one or several messages.
type get struct {
	Seq       uint64   `json:"seq,omitempty"`
	Next      string   `json:"next_by_subj,omitempty"`
	Last      string   `json:"last_by_subj,omitempty"`
	Batch     int      `json:"batch,omitempty"`
	MultiLast []string `json:"multi_last,omitempty"`
}

// getter reads a stream's messages.
type getter struct {
	nc     *nats.Conn
	stream string
	inbox  string
	ended  chan struct{}
	asked  atomic.Uint64

	mu      sync.Mutex
	waiting map[string]chan *nats.Msg // guarded by mu: answers, by their inbox's last token
}

func newGetter(nc *nats.Conn, stream string) (*getter, error) {
	g := &getter{nc: nc, stream: stream, inbox: nc.NewRespInbox(), ended: make(chan struct{}), waiting: map[string]chan *nats.Msg{}}
	answers, err := nc.Subscribe(g.inbox+".*", g.route)
	if err == nil {
		err = answers.SetPendingLimits(-1, -1)
	}
	return g, err
}

// expect has answers to an inbox of its own come to a channel, until forget.
func (g *getter) expect(most int) (inbox string, answers chan *nats.Msg, forget func()) {
	name := strconv.FormatUint(g.asked.Add(1), 36)
	answers = make(chan *nats.Msg, most)
	g.mu.Lock()
	g.waiting[name] = answers
	g.mu.Unlock()
	return g.inbox + "." + name, answers, func() {
		g.mu.Lock()
		delete(g.waiting, name)
		g.mu.Unlock()
	}
}

// ask sends a message and waits for its answer. The connection's own requests would
// wait for it even past their time, while it comes back.
func (g *getter) ask(ctx context.Context, msg *nats.Msg) (*nats.Msg, error) {
	inbox, answers, forget := g.expect(1)
	defer forget()
	msg.Reply = inbox
	if err := g.nc.PublishMsg(msg); err != nil {
		return nil, err
	}
	select {
	case answer := <-answers:
		if len(answer.Data) == 0 && answer.Header.Get("Status") == "503" {
			return nil, nats.ErrNoResponders
		}
		return answer, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-g.ended:
		return nil, nats.ErrConnectionClosed
	}
}

// direct sends a get and hands each message to take, until that says enough or the
// end; it returns the end's header, nil where there was nothing.
func (j *getter) direct(ctx context.Context, g get, take func(*nats.Msg)) (nats.Header, error) {
	body, err := json.Marshal(g)
	if err != nil {
		return nil, err
	}
	inbox, answers, forget := j.expect(max(g.Batch, len(g.MultiLast), 1) + 1)
	defer forget()
	if err := j.nc.PublishRequest("$JS.API.DIRECT.GET."+j.stream, inbox, body); err != nil {
		return nil, err
	}
	timer := time.NewTimer(askTimeout)
	defer timer.Stop()
	for {
		select {
		case msg := <-answers:
			switch status := msg.Header.Get("Status"); status {
			case "":
				take(msg)
				if g.Batch == 0 && len(g.MultiLast) == 0 {
					return nil, nil
				}
			case "204":
				return msg.Header, nil
			case "404":
				return nil, nil
			default:
				return nil, errors.New("the broker: " + status + " " + msg.Header.Get("Description"))
			}
		case <-timer.C:
			return nil, ErrUnconfirmed
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-j.ended:
			return nil, nats.ErrConnectionClosed
		}
	}
}

func (j *getter) route(msg *nats.Msg) {
	name := msg.Subject[len(j.inbox)+1:]
	j.mu.Lock()
	answers := j.waiting[name]
	j.mu.Unlock()
	if answers != nil {
		select {
		case answers <- msg:
		default: // more than was asked for
		}
	}
}

// Message is one that is kept.
type Message struct {
	Seq    uint64
	At     time.Time
	Data   []byte
	kept   bool // false: only its id is
	origin origin
	prev   uint64 // of its key; told by what is republished only
}

func (j *Journal) messageOf(msg *nats.Msg) Message {
	seq, _ := strconv.ParseUint(msg.Header.Get("Nats-Sequence"), 10, 64)
	prev, _ := strconv.ParseUint(msg.Header.Get("Nats-Last-Sequence"), 10, 64)
	at, _ := time.Parse(time.RFC3339Nano, msg.Header.Get("Nats-Time-Stamp"))
	subject := msg.Header.Get("Nats-Subject")
	kept := len(subject) > len(j.cfg.Prefix)+3 && subject[len(j.cfg.Prefix):][:4] == ".ev."
	return Message{seq, at, msg.Data, kept, parseOrigin(msg.Header.Get(originHeader)), prev}
}

// page reads the messages of a key after a place, up to a number of them, from any
// replica. more says that there are others.
func (j *Journal) page(ctx context.Context, key string, after uint64, most int) (list []Message, more bool, err error) {
	g := get{Seq: after + 1, Next: j.cfg.Prefix + ".ev." + token(key), Batch: min(most, readBatch)}
	end, err := j.direct(ctx, g, func(msg *nats.Msg) { list = append(list, j.messageOf(msg)) })
	return list, end.Get("Nats-Num-Pending") > "0", err
}

// Read reads a key's messages after a place up to another that is known to exist,
// in parts, until take says that it is enough.
func (j *Journal) Read(ctx context.Context, key string, after, until uint64, take func([]Message) bool) error {
	for wait := time.Millisecond; after < until; {
		list, _, err := j.page(ctx, key, after, readBatch)
		if err != nil {
			return err
		}
		for len(list) > 0 && list[len(list)-1].Seq > until {
			list = list[:len(list)-1]
		}
		if len(list) > 0 {
			after = list[len(list)-1].Seq
			if !take(list) {
				return nil
			}
			if after == until {
				return nil
			}
			continue
		}
		// Nothing more up to there: unless this replica lags behind, the messages have
		// gone, or are another key's.
		last, err := j.next(ctx, j.cfg.Prefix+".ev."+token(key), after, until)
		if err != nil || last == 0 {
			return err
		}
		select {
		case <-time.After(wait):
			wait = min(2*wait, 50*time.Millisecond)
		case <-ctx.Done():
			return errStale
		}
	}
	return nil
}

// next asks the leader for the next place of a subject after one: 0 when there is
// none up to another place.
func (j *getter) next(ctx context.Context, subject string, after, until uint64) (uint64, error) {
	seq, err := j.leader(ctx, get{Seq: after + 1, Next: subject})
	if seq > until {
		seq = 0
	}
	return seq, err
}

// last asks the leader for the last place of a subject, which may have wildcards: 0
// when there is none.
func (j *getter) last(ctx context.Context, subject string) (uint64, error) {
	return j.leader(ctx, get{Last: subject})
}

// leader asks the stream's leader for one message's place.
func (j *getter) leader(ctx context.Context, g get) (uint64, error) {
	body, err := json.Marshal(g)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	msg, err := j.ask(ctx, message("$JS.API.STREAM.MSG.GET."+j.stream, body))
	if err != nil {
		return 0, err
	}
	var answer struct {
		Message struct {
			Seq uint64 `json:"seq"`
		} `json:"message"`
		Error *struct {
			Code        int    `json:"code"`
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(msg.Data, &answer); err != nil {
		return 0, err
	}
	switch {
	case answer.Error != nil && answer.Error.Code == 404:
		return 0, nil
	case answer.Error != nil:
		return 0, errors.New("the broker: " + answer.Error.Description)
	}
	return answer.Message.Seq, nil
}

// Span is what can be read of a key.
type Span struct {
	Oldest uint64 // the place before the first message that can be read
	Last   uint64 // the stream's last place, of any key
}

// Span asks what can be read of a key. After a place that is not before Oldest
// nothing is missing.
func (j *Journal) Span(ctx context.Context, key string) (Span, error) {
	s, err := j.state(ctx)
	if err != nil {
		return Span{}, err
	}
	// All before the stream's first message may have been this key's; of what
	// follows, the limit of a key's messages is all that removes any.
	whole := max(s.first, 1) - 1
	if s.first == 0 {
		whole = s.last
	}
	if j.cfg.PerKey == 0 {
		return Span{whole, s.last}, nil
	}
	g := get{Seq: 1, Next: j.cfg.Prefix + ".ev." + token(key), Batch: 1}
	var first uint64
	end, err := j.direct(ctx, g, func(msg *nats.Msg) { first = j.messageOf(msg).Seq })
	if err != nil {
		return Span{}, err
	}
	if pending := parseSeq(end.Get("Nats-Num-Pending")); first > 0 && pending+1 > uint64(j.cfg.PerKey) {
		whole = max(whole, first)
	}
	return Span{whole, s.last}, nil
}

func parseSeq(text string) uint64 {
	seq, _ := strconv.ParseUint(text, 10, 64)
	return seq
}
