package journal

import (
	"context"
	"errors"
	"slices"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/broker/stream"
)

// The broker takes 50 batches of a stream at once (a setting of its own); whoever
// finds it busy tries again.
const batchesAtOnce = 16

// errKnown: some of a batch was there before.
var errKnown = errors.New("an id of the batch was stored before")

// Append keeps items, all or none, at places that follow each other, those of one
// key together; and hands them to who follows their keys, this process's feeds
// before it returns. An item whose id is known becomes a duplicate. Any error but
// ErrUnconfirmed means that nothing was kept; ErrFull may be over soon.
func (j *Journal) Append(ctx context.Context, items []*Item) error {
	ctx, cancel := context.WithTimeout(ctx, stream.AppendTimeout)
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
		if len(left) == len(fresh) && !stream.Pause(ctx) { // it was just being kept, and was not
			return stream.ErrUnconfirmed
		}
		fresh = left
	}
	for _, it := range again {
		it.becomes(first[keyID{it.Key, it.ID}])
	}
	return j.describeFirsts(ctx, items)
}

func (it *Item) becomes(first *Item) {
	it.Duplicate, it.Seq, it.Epoch, it.At = true, first.Seq, first.Epoch, first.At
}

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
	b := j.compose(number, keys, p)
	j.mu.Lock()
	j.own[number] = p
	j.mu.Unlock()
	defer j.release(number, p)
	if len(b.messages) == 0 {
		return j.pass(keys, p, b.passes)
	}
	if !j.cfg.Connected() {
		return stream.ErrUnconfirmed // as it would be
	}
	if err := j.takeSpace(ctx, b.messages, b.of); err != nil {
		return err
	}
	l := j.life.Load()
	highest := l.highest.Load()
	begun := stream.Uptime()
	last, duplicate, err := j.keep(ctx, b.messages, b.passes)
	if err != nil || !duplicate { // those were known, and are not kept again
		j.appended(ctx, begun, err)
	}
	if err != nil {
		return err
	}
	if duplicate { // one message, that was there
		b.of[0].Duplicate, b.of[0].Seq, b.of[0].Epoch = true, last, l.epoch
		if len(items) > 1 {
			return errKnown // what goes with it goes without it
		}
		return nil
	}
	if l, err = j.lifeOf(ctx, l, highest, last-uint64(len(b.of)-1), last); err != nil {
		return err
	}
	j.placed(ctx, l, keys, p, b.of, last)
	return nil
}

// placed gives the items of a parcel their places in a life, of which the kept ones end at
// last, and waits until those of each key have been handed over.
func (j *Journal) placed(ctx context.Context, l *life, keys []string, p *parcel, kept []*Item, last uint64) {
	seqs := map[string][]uint64{}
	for i, it := range kept {
		if !it.Pass {
			seqs[it.Key] = append(seqs[it.Key], last-uint64(len(kept)-1-i))
		}
	}
	for _, key := range keys {
		items := p.items[key]
		for _, it := range items {
			it.Epoch = l.epoch
		}
		if n := len(seqs[key]); n > 0 {
			l.lasts.note(key, seqs[key][n-1])
		}
		if j.awaitOwn(ctx, l, key, p, seqs[key]) {
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
}

// batch is what the broker is sent for one append.
type batch struct {
	messages []*nats.Msg // to be kept, at places that follow each other
	of       []*Item     // of messages; of one that is passed the id alone is kept
	passes   []*nats.Msg
}

func (j *Journal) compose(number uint64, keys []string, p *parcel) (b batch) {
	for _, key := range keys {
		subject, prev := stream.Token(key), j.knows(j.life.Load(), key)
		of, passing := 0, 0
		for _, it := range p.items[key] {
			if it.Pass {
				passing++
			} else {
				of++
			}
		}
		at := 0
		var beside []string
		if j.cfg.Beside != nil {
			beside = j.cfg.Beside(key)
		}
		for _, it := range p.items[key] {
			o := origin{j.cfg.Node, number, at, of, passing, prev}
			id := ""
			if it.ID != "" && j.cfg.Window > 0 {
				id = key + ":" + it.ID
			}
			if it.Pass {
				it.beside = beside
				msg := stream.NewMessage(j.cfg.Prefix+".live."+subject+".pass", it.Data, originHeader, o.String())
				if beside != nil {
					msg.Header[besideHeader] = beside
				}
				b.passes = append(b.passes, msg)
				if id != "" {
					b.messages = append(b.messages, stream.NewMessage(j.cfg.Prefix+".id."+subject, nil, jetstream.MsgIDHeader, id, jetstream.MsgTTLHeader, stream.FormatTTL(j.cfg.Window)))
					b.of = append(b.of, it)
				}
				continue
			}
			msg := stream.NewMessage(j.cfg.Prefix+".ev."+subject, it.Data, originHeader, o.String())
			if beside != nil {
				msg.Header[besideHeader] = beside
			}
			if id != "" {
				msg.Header[jetstream.MsgIDHeader] = []string{id}
			}
			b.messages, b.of = append(b.messages, msg), append(b.of, it)
			at++
		}
	}
	return b
}

// pass hands on what is not kept, to others and to our own feeds.
func (j *Journal) pass(keys []string, p *parcel, passes []*nats.Msg) error {
	for i, msg := range passes { // who cannot be reached now is not there now
		if !j.cfg.Connected() {
			j.unpassed.Add(int64(len(passes) - i))
			break
		}
		if err := j.nc.PublishMsg(msg); errors.Is(err, nats.ErrMaxPayload) {
			return stream.ErrTooLarge
		} else if err != nil {
			j.unpassed.Add(1)
		}
	}
	for _, key := range keys {
		j.passOwn(key, p)
	}
	return nil
}

// keep has the broker store messages, and sends the passes that go with them before the last
// one. It returns the place of the last message, and whether a single one was a duplicate.
func (j *Journal) keep(ctx context.Context, messages, passes []*nats.Msg) (last uint64, duplicate bool, err error) {
	if len(messages) > 1 {
		select {
		case j.slots <- struct{}{}:
			defer func() { <-j.slots }()
		case <-ctx.Done():
			return 0, false, stream.ErrUnconfirmed
		}
	}
	sure := true // no earlier try can have been stored
	for {
		last, duplicate, err = j.keepOnce(ctx, messages, passes)
		passes = nil // followers have received them already, and wait for the messages
		code := 0
		if refused, ok := errors.AsType[*stream.Refusal](err); ok {
			code = refused.Code
		}
		switch code {
		case stream.CodeInProcess, stream.CodeBatchesFull, stream.CodeIncomplete, stream.CodeNotLeader:
		case stream.CodeKnown:
			return 0, false, errKnown
		default:
			if errors.Is(err, stream.ErrUnconfirmed) {
				sure = false
			}
			return last, duplicate, err
		}
		if !stream.Pause(ctx) {
			if sure && code != stream.CodeInProcess {
				return 0, false, err
			}
			return 0, false, stream.ErrUnconfirmed
		}
	}
}

func (j *Journal) keepOnce(ctx context.Context, messages, passes []*nats.Msg) (last uint64, duplicate bool, err error) {
	return j.stream.Publish(ctx, j.cfg.Node+"-"+strconv.FormatUint(j.number.Add(1), 36), messages, passes)
}

// findKnown marks the items whose ids the broker knows. The broker does not say which they are.
// So each is sent once more, under a condition that cannot hold: the answer to a known id is
// that it is a duplicate, and any other is refused.
func (j *Journal) findKnown(ctx context.Context, items []*Item) error {
	condition, value := jetstream.ExpectedLastMsgIDHeader, "none"
	if j.cfg.Replicas > 1 { // with replicas the first condition is checked too late; without them the second is checked before the ids
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
				seq, known, err := j.stream.Request(ctx, stream.NewMessage(j.cfg.Prefix+".id."+stream.Token(it.Key), nil, jetstream.MsgIDHeader, it.Key+":"+it.ID, condition, value))
				refused, no := errors.AsType[*stream.Refusal](err)
				switch {
				case known:
					it.Duplicate, it.Seq, it.Epoch = true, seq, j.Epoch()
					faults <- nil
				case no && refused.Code == stream.CodeInProcess && stream.Pause(ctx):
					continue
				case no:
					faults <- nil
				case err == nil:
					faults <- errors.New("the store stored a message that it should have refused")
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

// describeFirsts learns of duplicates when their first came, and whether it was kept. Of one that has
// gone the place is all there is to tell. ErrUnconfirmed: one cannot be read now.
func (j *Journal) describeFirsts(ctx context.Context, items []*Item) error {
	for _, it := range items {
		if !it.Duplicate || !it.At.IsZero() || it.Seq == 0 {
			continue
		}
		msg, err := j.stream.At(ctx, it.Seq)
		if err != nil {
			return errors.Join(stream.ErrUnconfirmed, err)
		}
		if msg == nil {
			continue
		}
		first := j.messageOf(msg)
		it.At, it.First = first.At, first.Data
		if !first.kept {
			it.Seq = 0
		}
	}
	return nil
}
