package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The broker takes 50 batches of a stream at once (a setting of its own); whoever
// finds it busy tries again.
const batchesAtOnce = 16

// BatchLimit is how many items the broker takes together.
const BatchLimit = 1000

// Codes of the broker's errors that say to try again, and what to do before.
const (
	codeInProcess   = 10158 // the same id is just being kept
	codeKnown       = 10201 // a batch has an id that is known
	codeBatchesFull = 10210
	codeIncomplete  = 10176 // another leader has not seen the batch's beginning
	codeNotLeader   = 10009
)

// errKnown: some of a batch was there before.
var errKnown = errors.New("an id of the batch is known")

// parcel is what one Append has under way, by key in the order given. A feed that
// takes a key's items has them to itself until done.
type parcel struct {
	done map[string]chan struct{} // closed when Handle has had them
	// Guarded by Journal.mu once it can be found.
	items map[string][]*Item // none: nobody is to take them any more
	taken map[string]bool
}

// origin says who appended a message, and its place among what came with it.
type origin struct {
	node   string
	number uint64
	at, of int // of the key's messages in that append
	passes int // of the key's items in that append, passed beside them
}

const originHeader = "Origin"

func (o origin) String() string {
	return fmt.Sprintf("%s %d %d %d %d", o.node, o.number, o.at, o.of, o.passes)
}

// parseOrigin reads what String writes; anything else is a message by itself.
func parseOrigin(text string) origin {
	o := origin{of: 1}
	f := strings.Fields(text)
	if len(f) != 5 {
		return o
	}
	o.node = f[0]
	o.number, _ = strconv.ParseUint(f[1], 10, 64)
	o.at, _ = strconv.Atoi(f[2])
	o.of, _ = strconv.Atoi(f[3])
	o.passes, _ = strconv.Atoi(f[4])
	return o
}

// Append keeps items, all or none, at places that follow each other, those of one
// key together; and hands them to who follows their keys, this process's feeds
// before it returns. An item whose id is known becomes a duplicate. Any error but
// ErrUnconfirmed means that nothing was kept.
func (j *Journal) Append(ctx context.Context, items []*Item) error {
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	type keyID struct{ key, id string }
	first := map[keyID]*Item{}
	var fresh, again []*Item
	for _, it := range items {
		known := keyID{it.Key, it.ID}
		switch {
		case it.ID != "" && j.cfg.Window > 0 && first[known] != nil:
			again = append(again, it)
		default:
			first[known] = it
			fresh = append(fresh, it)
		}
	}
	for len(fresh) > 0 {
		err := j.append(ctx, fresh)
		if err == nil {
			break
		}
		if !errors.Is(err, errKnown) {
			return err
		}
		if !slices.ContainsFunc(fresh, func(it *Item) bool { return it.Duplicate }) {
			if err := j.findKnown(ctx, fresh); err != nil {
				return err
			}
		}
		left := slices.DeleteFunc(slices.Clone(fresh), func(it *Item) bool { return it.Duplicate })
		if len(left) == len(fresh) && !pause(ctx) { // it was just being kept, and was not
			return ErrUnconfirmed
		}
		fresh = left
	}
	for _, it := range again {
		it.becomes(first[keyID{it.Key, it.ID}])
	}
	j.describeFirsts(ctx, items)
	return nil
}

func (it *Item) becomes(first *Item) { it.Duplicate, it.Seq, it.At = true, first.Seq, first.At }

// append is Append of items none of which is another's duplicate.
func (j *Journal) append(ctx context.Context, items []*Item) error {
	p := &parcel{map[string]chan struct{}{}, map[string][]*Item{}, map[string]bool{}}
	var keys []string
	for _, it := range items {
		if p.items[it.Key] == nil {
			keys = append(keys, it.Key)
			p.done[it.Key] = make(chan struct{})
		}
		p.items[it.Key] = append(p.items[it.Key], it)
	}
	number := j.number.Add(1)
	var messages []*nats.Msg
	var kept []*Item    // of messages, nil for an id alone
	var sources []*Item // of messages
	var passes []*nats.Msg
	for _, key := range keys {
		subject := token(key)
		of, passing := 0, 0
		for _, it := range p.items[key] {
			if it.Pass {
				passing++
			} else {
				of++
			}
		}
		at := 0
		for _, it := range p.items[key] {
			o := origin{j.cfg.Node, number, at, of, passing}
			id := ""
			if it.ID != "" && j.cfg.Window > 0 {
				id = key + ":" + it.ID
			}
			if it.Pass {
				passes = append(passes, message(j.cfg.Prefix+".live."+subject+".pass", it.Data, originHeader, o.String()))
				if id != "" {
					ttl := strconv.Itoa(max(1, int(j.cfg.Window/time.Second)))
					messages = append(messages, message(j.cfg.Prefix+".id."+subject, nil, jetstream.MsgIDHeader, id, jetstream.MsgTTLHeader, ttl))
					kept, sources = append(kept, nil), append(sources, it)
				}
				continue
			}
			msg := message(j.cfg.Prefix+".ev."+subject, it.Data, originHeader, o.String())
			if id != "" {
				msg.Header[jetstream.MsgIDHeader] = []string{id}
			}
			messages = append(messages, msg)
			kept, sources = append(kept, it), append(sources, it)
			at++
		}
	}
	j.mu.Lock()
	j.own[number] = p
	j.mu.Unlock()
	defer j.release(number, p)
	if len(messages) > 0 {
		if !j.cfg.Connected() {
			return ErrUnconfirmed // as it would be
		}
		highest := j.highest.Load()
		last, duplicate, err := j.keep(ctx, messages, passes)
		if err != nil {
			return err
		}
		if duplicate { // one message, that was there
			sources[0].Duplicate, sources[0].Seq = true, last
			if len(items) > 1 {
				return errKnown // what goes with it goes without it
			}
			return nil
		}
		if last <= highest {
			j.cfg.Logger.Error("the broker has given a place again", "place", last)
			j.again() // in another life
		}
		j.saw(last)
		seqs := map[string][]uint64{}
		for i, it := range kept {
			if it != nil {
				seqs[it.Key] = append(seqs[it.Key], last-uint64(len(kept)-1-i))
			}
		}
		for _, key := range keys {
			items := p.items[key]
			if j.awaitOwn(ctx, key, p, seqs[key]) {
				continue
			}
			i := 0
			for _, it := range items {
				if !it.Pass {
					it.Seq = seqs[key][i]
					i++
				}
			}
		}
		return nil
	}
	for i, msg := range passes { // who cannot be reached now is not there now
		if !j.cfg.Connected() {
			j.unpassed.Add(int64(len(passes) - i))
			break
		}
		if err := j.nc.PublishMsg(msg); errors.Is(err, nats.ErrMaxPayload) {
			return ErrTooLarge
		} else if err != nil {
			j.unpassed.Add(1)
		}
	}
	for _, key := range keys {
		j.passOwn(key, p)
	}
	return nil
}

// release takes a parcel back; what a feed has taken is handled first.
func (j *Journal) release(number uint64, p *parcel) {
	j.mu.Lock()
	delete(j.own, number)
	var wait []chan struct{}
	for key := range p.taken {
		wait = append(wait, p.done[key])
	}
	j.mu.Unlock()
	for _, done := range wait {
		select {
		case <-done:
		case <-j.ended:
		}
	}
}

// message makes one with headers, as they are spelt.
func message(subject string, data []byte, headers ...string) *nats.Msg {
	msg := &nats.Msg{Subject: subject, Data: data, Header: nats.Header{}}
	for i := 0; i < len(headers); i += 2 {
		msg.Header[headers[i]] = []string{headers[i+1]}
	}
	return msg
}

// ack is the broker's answer to a message.
type ack struct {
	Seq       uint64 `json:"seq"`
	Duplicate bool   `json:"duplicate"`
	Error     *struct {
		Code        int    `json:"err_code"`
		Description string `json:"description"`
	} `json:"error"`
}

// keep has messages kept, and passes what goes with them before the last; it
// returns the last one's place, or of a single one that it was a duplicate.
func (j *Journal) keep(ctx context.Context, messages, passes []*nats.Msg) (last uint64, duplicate bool, err error) {
	if len(messages) > 1 {
		select {
		case j.slots <- struct{}{}:
			defer func() { <-j.slots }()
		case <-ctx.Done():
			return 0, false, ErrUnconfirmed
		}
	}
	sure := true // that no earlier try was kept
	for {
		last, duplicate, err = j.keepOnce(ctx, messages, passes)
		passes = nil // who follows has them, and waits for the messages
		code := 0
		if refused, ok := errors.AsType[*refusal](err); ok {
			code = refused.code
		}
		switch code {
		case codeInProcess, codeBatchesFull, codeIncomplete, codeNotLeader:
		case codeKnown:
			return 0, false, errKnown
		default:
			if errors.Is(err, ErrUnconfirmed) {
				sure = false
			}
			return last, duplicate, err
		}
		if !pause(ctx) {
			if sure && code != codeInProcess {
				return 0, false, err
			}
			return 0, false, ErrUnconfirmed
		}
	}
}

// pause waits a little before another try, unless ctx ends.
func pause(ctx context.Context) bool {
	select {
	case <-time.After(5*time.Millisecond + rand.N(10*time.Millisecond)):
		return true
	case <-ctx.Done():
		return false
	}
}

// refusal is the broker's word that it has not kept something.
type refusal struct {
	code int
	text string
}

// Refused says that an error is the broker's word that it has kept nothing.
func Refused(err error) bool {
	_, refused := errors.AsType[*refusal](err)
	return refused && !errors.Is(err, ErrUnconfirmed)
}

func (e *refusal) Error() string { return fmt.Sprintf("the broker: %s (%d)", e.text, e.code) }

func (j *Journal) keepOnce(ctx context.Context, messages, passes []*nats.Msg) (last uint64, duplicate bool, err error) {
	return j.getter.publish(ctx, j.cfg.Node+"-"+strconv.FormatUint(j.number.Add(1), 36), messages, passes)
}

// publish sends messages, several as a batch of that name, and beside them, before
// the last, what is not kept.
func (j *getter) publish(ctx context.Context, batch string, messages, passes []*nats.Msg) (last uint64, duplicate bool, err error) {
	n := len(messages)
	if n > 1 {
		for i, msg := range messages {
			msg.Header["Nats-Batch-Id"] = []string{batch}
			msg.Header["Nats-Batch-Sequence"] = []string{strconv.Itoa(i + 1)}
		}
		messages[n-1].Header["Nats-Batch-Commit"] = []string{"1"}
	}
	for _, msg := range append(messages[:n-1:n-1], passes...) {
		if err := j.nc.PublishMsg(msg); err != nil {
			return 0, false, brokerError(err)
		}
	}
	return j.request(ctx, messages[n-1])
}

func (j *getter) request(ctx context.Context, msg *nats.Msg) (seq uint64, duplicate bool, err error) {
	answer, err := j.ask(ctx, msg)
	if err != nil {
		return 0, false, brokerError(err)
	}
	var a ack
	if err := json.Unmarshal(answer.Data, &a); err != nil {
		return 0, false, fmt.Errorf("%w: %w", ErrUnconfirmed, err)
	}
	if a.Error != nil {
		return 0, false, &refusal{a.Error.Code, a.Error.Description}
	}
	return a.Seq, a.Duplicate, nil
}

// brokerError is of a message that may have left.
func brokerError(err error) error {
	if errors.Is(err, nats.ErrMaxPayload) {
		return ErrTooLarge
	}
	return fmt.Errorf("%w: %w", ErrUnconfirmed, err)
}

// findKnown marks the items whose ids the broker knows. It does not say which: so
// each is offered once more, under a condition that cannot hold, and is answered
// either as a duplicate or as refused.
func (j *Journal) findKnown(ctx context.Context, items []*Item) error {
	condition, value := jetstream.ExpectedLastMsgIDHeader, "none"
	if j.cfg.Replicas > 1 { // there this one is looked at too late, and that one before the ids are if not
		condition, value = jetstream.ExpectedLastSeqHeader, strconv.FormatUint(1<<62, 10)
	}
	faults := make(chan error, len(items))
	asked := 0
	for _, it := range items {
		if it.ID == "" {
			continue
		}
		asked++
		go func() {
			for {
				seq, known, err := j.request(ctx, message(j.cfg.Prefix+".id."+token(it.Key), nil, jetstream.MsgIDHeader, it.Key+":"+it.ID, condition, value))
				refused, no := errors.AsType[*refusal](err)
				switch {
				case known:
					it.Duplicate, it.Seq = true, seq
					faults <- nil
				case no && refused.code == codeInProcess && pause(ctx):
					continue
				case no:
					faults <- nil
				case err == nil:
					faults <- errors.New("the broker kept what it must not")
				default:
					faults <- err
				}
				return
			}
		}()
	}
	var err error
	for range asked {
		err = errors.Join(err, <-faults)
	}
	return err
}

// describeFirsts learns of duplicates when their first came, and whether it was kept;
// where that cannot be learned now, their place is all there is to tell.
func (j *Journal) describeFirsts(ctx context.Context, items []*Item) {
	for _, it := range items {
		if !it.Duplicate || !it.At.IsZero() || it.Seq == 0 {
			continue
		}
		for wait := time.Millisecond; ; wait *= 2 {
			var first *Message
			_, err := j.direct(ctx, get{Seq: it.Seq}, func(msg *nats.Msg) { m := j.messageOf(msg); first = &m })
			if err != nil {
				return
			}
			if first != nil {
				it.At, it.First = first.At, first.Data
				if !first.kept {
					it.Seq = 0
				}
				break
			}
			if wait > 8*time.Millisecond { // it has gone, its place is known
				break
			}
			select { // or a replica is behind
			case <-time.After(wait):
			case <-ctx.Done():
			}
		}
	}
}
