package outbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"realtimehub/internal/broker/stream"
	"realtimehub/internal/outbox"
)

// Bounds of putting.
const (
	mostOfBatch  = stream.BatchLimit - 2 // items; the head and the key go with them
	bytesOfBatch = 1 << 20               // of items of several, about
	keepTime     = 5 * time.Second       // for the broker to keep something: nobody's call is the slower for it
	batchSpeed   = 4 << 20               // bytes a second, about, that the broker may need beside that
	putTime      = 30 * time.Second      // while others are first, or the broker is too busy
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
	for part := 0; len(drafts) > 0; part++ {
		p := &parcel{drafts: drafts[:min(len(drafts), mostOfBatch)]}
		if key != "" {
			p.key = b.keySubject(tenant, key, part)
		}
		if err := b.queues.add(ctx, tenant, p); err != nil {
			if part > 0 {
				err = fmt.Errorf("%w: %w", stream.ErrUnconfirmed, err)
			}
			return err
		}
		drafts = drafts[len(p.drafts):]
	}
	return nil
}

// parcel is what is put with one key.
type parcel struct {
	key    string // its subject; empty: none
	drafts []outbox.Draft

	done chan struct{} // closed when err is filled in
	err  error
}

func (p *parcel) bytes() (n int) {
	for i := range p.drafts {
		n += len(p.drafts[i].Data)
	}
	return n
}

// put puts parcels of a tenant, together if it can be, and fills in their errors.
func (b *Box) put(tenant string, parcels []*parcel) {
	ctx, cancel := context.WithTimeout(context.Background(), putTime)
	defer cancel()
	err := b.putAll(ctx, tenant, parcels)
	if refused := err != nil && !errors.Is(err, stream.ErrUnconfirmed); refused && len(parcels) > 1 {
		for i := range parcels { // for one of them, perhaps
			b.put(tenant, parcels[i:i+1])
		}
		return
	}
	for _, p := range parcels {
		p.err = err
	}
}

// putAll puts those of some parcels whose keys are not known.
func (b *Box) putAll(ctx context.Context, tenant string, parcels []*parcel) error {
	left := different(parcels)
	for {
		h, err := b.settled(ctx, tenant, 0)
		if err == nil {
			err = b.putAfter(ctx, tenant, left, h)
		}
		if stream.WasSecond(err) {
			var failed error
			if left, failed = b.unknown(ctx, left); failed != nil {
				return failed
			}
			if len(left) == 0 {
				return nil
			}
		}
		if !stream.WasSecond(err) && !stream.WasBusy(err) || !stream.Pause(ctx) {
			return err
		}
	}
}

// different are the first parcels of each key.
func different(parcels []*parcel) (list []*parcel) {
	keys := map[string]bool{}
	for _, p := range parcels {
		if p.key == "" || !keys[p.key] {
			list = append(list, p)
		}
		keys[p.key] = true
	}
	return list
}

// unknown are those of some parcels whose keys the broker does not have.
func (b *Box) unknown(ctx context.Context, parcels []*parcel) (list []*parcel, err error) {
	for _, p := range parcels {
		at := uint64(0)
		if p.key != "" {
			if at, err = b.stream.Last(ctx, p.key); err != nil {
				return nil, err
			}
		}
		if at == 0 {
			list = append(list, p)
		}
	}
	return list, nil
}

// putAfter puts parcels if the head of their tenant is still the same.
func (b *Box) putAfter(ctx context.Context, tenant string, parcels []*parcel, h head) error {
	next := h
	if h.seq == 0 {
		next = h.anew(0)
	}
	messages, err := b.compose(tenant, parcels, &next)
	if err != nil {
		return err
	}
	bytes := 0
	for _, msg := range messages {
		bytes += msg.Size()
	}
	b.makeRoom(ctx, int64(bytes+len(messages)*messageBytes))
	once, cancel := context.WithTimeout(ctx, keepTime+time.Duration(bytes)*time.Second/batchSpeed)
	defer cancel()
	if _, err = b.keep(once, messages...); err == nil {
		b.know(tenant, next.newest)
	}
	return err
}

// compose makes the messages of parcels, whose items follow a head, which becomes theirs.
func (b *Box) compose(tenant string, parcels []*parcel, h *head) ([]*nats.Msg, error) {
	messages := []*nats.Msg{row(b.subject(kindHead, tenant), nil, rowTTL, h.seq)}
	for _, p := range parcels {
		for i := range p.drafts {
			h.newest++
			data, err := encode(tenant, h.newest, &p.drafts[i])
			if err != nil {
				return nil, err
			}
			messages = append(messages, fading(b.itemSubject(tenant, h.newest), data, itemTTL))
		}
		if p.key != "" { // after its items: what is cut for want of room leaves it while one is there
			messages = append(messages, row(p.key, nil, itemTTL, 0))
		}
	}
	messages[0].Data = h.data()
	return messages, nil
}
