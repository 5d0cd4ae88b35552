package outbox

import (
	"context"
	"strconv"

	"realtimehub/internal/broker/stream"
)

// Taken implements outbox.Box.
func (b *Box) Taken(ctx context.Context, tenant string, place uint64) error {
	h, err := b.settled(ctx, tenant, 0)
	if err != nil || h.seq == 0 {
		return err
	}
	place = min(place, h.newest)
	err = b.keepTaken(ctx, tenant, place)
	if f := b.followed(); f != nil && err == nil {
		f.took(tenant, place)
	}
	return err
}

// keepTaken has the broker keep up to which place items were taken, unless it has a later one.
func (b *Box) keepTaken(ctx context.Context, tenant string, place uint64) error {
	ctx, cancel := context.WithTimeout(ctx, putTime)
	defer cancel()
	for {
		known, seq, err := b.takenOf(ctx, tenant)
		if err != nil || known >= place {
			return err
		}
		_, err = b.keepOne(ctx, row(b.subject(kindTaken, tenant), strconv.AppendUint(nil, place, 10), rowTTL, seq))
		if !stream.WasSecond(err) && !stream.WasBusy(err) || !stream.Pause(ctx) {
			return err
		}
	}
}

// takenOf is the place up to which a tenant's items were taken, as the row at a place says.
func (b *Box) takenOf(ctx context.Context, tenant string) (place, seq uint64, err error) {
	data, seq, err := b.rowOf(ctx, kindTaken, tenant)
	return stream.ParseSeq(string(data)), seq, err
}
