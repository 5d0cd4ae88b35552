package outbox

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"realtimehub/internal/broker/stream"
	"realtimehub/internal/outbox"
)

// Bounds of putting.
const (
	mostOfBatch = stream.BatchLimit - 2 // items; the head and the key go with them
	putTries    = 200                   // of a batch, while others are first or the broker is too busy
	batchSpeed  = 4 << 20               // bytes a second, about, that a broker may need beside AppendTimeout
)

// Put implements outbox.Box. Drafts of more than one batch are put in parts, in order, each with
// the key and its number: all of them again, as they were, puts those parts that are missing.
// stream.ErrUnconfirmed: some or all may have been put.
func (b *Box) Put(ctx context.Context, tenant, key string, drafts []outbox.Draft) error {
	for i := range drafts {
		if _, err := drafts[i].Place(tenant, 0); err != nil {
			return err
		}
	}
	if len(drafts) == 0 {
		return nil
	}
	done, err := b.turns.take(ctx, tenant)
	if err != nil {
		return err
	}
	defer done()
	for part := 0; len(drafts) > 0; part++ {
		some := drafts[:min(len(drafts), mostOfBatch)]
		p := parcel{tenant: tenant, drafts: some}
		if key != "" {
			p.key = b.keySubject(tenant, key, part)
		}
		if err := b.put(ctx, &p); err != nil {
			if part > 0 {
				err = fmt.Errorf("%w: %w", stream.ErrUnconfirmed, err)
			}
			return err
		}
		drafts = drafts[len(some):]
	}
	return nil
}

// parcel is what is put together.
type parcel struct {
	tenant string
	key    string // its subject; empty: none
	drafts []outbox.Draft
}

// put puts a parcel, unless its key is known.
func (b *Box) put(ctx context.Context, p *parcel) error {
	for tries := 1; ; tries++ {
		h, err := b.settled(ctx, p.tenant, 0)
		if err == nil {
			err = b.putAfter(ctx, p, h)
		}
		if wasSecond(err) && p.key != "" {
			known, failed := b.stream.Last(ctx, p.key)
			if failed != nil {
				return failed
			}
			if known > 0 {
				return nil
			}
		}
		if !wasSecond(err) && !wasBusy(err) || tries == putTries || !stream.Pause(ctx) {
			return err
		}
	}
}

// putAfter puts a parcel if the head of its tenant is still the same.
func (b *Box) putAfter(ctx context.Context, p *parcel, h head) error {
	next := h
	if h.seq == 0 {
		next = h.anew(0)
	}
	messages, err := b.compose(p, &next)
	if err != nil {
		return err
	}
	bytes := 0
	for _, msg := range messages {
		bytes += msg.Size()
	}
	b.makeRoom(ctx, int64(bytes+len(messages)*messageBytes))
	once, cancel := context.WithTimeout(ctx, stream.AppendTimeout+time.Duration(bytes)*time.Second/batchSpeed)
	defer cancel()
	if _, err = b.keep(once, messages...); err == nil {
		b.know(p.tenant, next.newest)
	}
	return err
}

// compose makes the messages of a parcel, whose items follow a head, which becomes theirs.
func (b *Box) compose(p *parcel, h *head) ([]*nats.Msg, error) {
	messages := []*nats.Msg{row(b.subject(kindHead, p.tenant), nil, rowTTL, h.seq)}
	for i := range p.drafts {
		h.newest++
		data, err := encode(p.tenant, h.newest, &p.drafts[i])
		if err != nil {
			return nil, err
		}
		messages = append(messages, fading(b.itemSubject(p.tenant, h.newest), data, itemTTL))
	}
	messages[0].Data = h.data()
	if p.key != "" { // the last: what is cut for want of room leaves it while an item is there
		messages = append(messages, row(p.key, nil, itemTTL, 0))
	}
	return messages, nil
}
