package outbox

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"

	"realtimehub/internal/broker/stream"
	"realtimehub/internal/outbox"
)

// mostOfRead is how many items are asked for at once.
const mostOfRead = 1000

// kept is an item as the broker has it.
type kept struct {
	place uint64
	seq   uint64 // in the stream; 0: there is none
	data  []byte
	at    time.Time // it was put
}

// Read implements outbox.Box.
func (b *Box) Read(ctx context.Context, tenant string, q outbox.Query) (outbox.Page, error) {
	h, err := b.settled(ctx, tenant, q.After)
	if err != nil || h.seq == 0 {
		return outbox.Page{}, err
	}
	oldest, err := b.oldest(ctx, tenant, h)
	if err != nil {
		return outbox.Page{}, err
	}
	page := outbox.Page{Oldest: oldest.place, Newest: h.newest}
	from := oldest
	switch {
	case q.After == h.newest:
		return page, nil
	case q.After >= oldest.place && q.After < h.newest:
		if from, err = b.after(ctx, tenant, q.After, h); err != nil {
			return outbox.Page{}, err
		}
		if from.place > q.After+1 { // what was between has gone
			page.Oldest = from.place
		}
	}
	if from.seq > 0 && q.Limit > 0 {
		page.Items, err = b.itemsFrom(ctx, tenant, from, q)
	}
	return page, err
}

// oldest is the first item that is kept of a tenant, or the place of the next that will be put.
func (b *Box) oldest(ctx context.Context, tenant string, h head) (kept, error) {
	return b.firstFrom(ctx, tenant, 1, h)
}

// firstFrom is oldest of what is kept from a place in the stream on.
func (b *Box) firstFrom(ctx context.Context, tenant string, seq uint64, h head) (kept, error) {
	m, err := b.stream.Leader(ctx, stream.Get{Seq: seq, Next: b.itemsSubject(tenant)})
	if err != nil || m.Seq == 0 {
		return kept{place: h.newest + 1}, err
	}
	_, _, place := b.parts(m.Subject)
	return kept{place: place, seq: m.Seq, data: m.Data, at: m.At}, nil
}

// after is the first item after a place, or the place of the next that will be put. That place is
// not before the oldest, or was not until just now. stream.ErrStale: what is kept has changed.
func (b *Box) after(ctx context.Context, tenant string, place uint64, h head) (kept, error) {
	next, err := b.find(ctx, tenant, place+1)
	if err != nil || next.seq > 0 {
		return next, err
	}
	// A run has ended there, or the oldest have gone meanwhile.
	last, err := b.find(ctx, tenant, place)
	if err != nil {
		return kept{}, err
	}
	next, err = b.firstFrom(ctx, tenant, last.seq+1, h)
	if err != nil || next.place > place {
		return next, err
	}
	next, err = b.find(ctx, tenant, h.begin) // the end of the run before is lost, and the place with it
	if err == nil && (h.begin <= place || next.seq == 0 && h.begin <= h.newest) {
		err = stream.ErrStale
	}
	return next, err
}

// find is an item by its place.
func (b *Box) find(ctx context.Context, tenant string, place uint64) (kept, error) {
	m, err := b.stream.Leader(ctx, stream.Get{Last: b.itemSubject(tenant, place)})
	return kept{place: place, seq: m.Seq, data: m.Data, at: m.At}, err
}

// itemsFrom are those from one on that follow each other. What a replica lacks that is behind
// comes the next time.
func (b *Box) itemsFrom(ctx context.Context, tenant string, from kept, q outbox.Query) ([]outbox.Item, error) {
	first, err := decode(tenant, from.place, from.data)
	if err != nil {
		b.cfg.Unread(tenant, from.seq, err)
		return nil, err
	}
	items, bytes := []outbox.Item{first}, len(first.Data)
	whole := q.Limit == 1 || q.Bytes > 0 && bytes >= q.Bytes
	if whole {
		return items, nil
	}
	get := stream.Get{Seq: from.seq + 1, Next: b.itemsSubject(tenant), Batch: min(q.Limit, mostOfRead) - 1}
	if q.Bytes > 0 {
		get.MaxBytes = 2 * q.Bytes // with what is around the data
	}
	_, err = b.stream.Direct(ctx, get, func(msg *nats.Msg) {
		_, _, place := b.parts(msg.Header.Get("Nats-Subject"))
		if whole = whole || place != from.place+uint64(len(items)); whole {
			return
		}
		item, err := decode(tenant, place, msg.Data)
		if bytes += len(item.Data); err != nil || q.Bytes > 0 && bytes > q.Bytes {
			whole = true // what cannot be read is told of as the first of the next page
			return
		}
		items = append(items, item)
	})
	return items, err
}
