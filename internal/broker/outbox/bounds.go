package outbox

import (
	"cmp"
	"context"
	"slices"
	"time"

	"realtimehub/internal/broker/stream"
)

// messageBytes is what a message takes beside what the broker tells: its servers have its subject
// in memory.
const messageBytes = 200

// trimTime is how long all that is kept may take to be counted.
const trimTime = time.Minute

// With more than high the tenants with most lose their oldest items, until there is low. Whoever
// puts looks again whenever it has put a part of what is between.
func (c *Config) high() int64 { return c.Bytes - c.Bytes/8 }
func (c *Config) low() int64  { return c.Bytes - c.Bytes*3/16 }
func (c *Config) part() int64 { return c.Bytes / 32 }

func takes(s stream.State) int64 { return int64(s.Bytes) + messageBytes*int64(s.Messages) }

// makeRoom has what is kept looked at, now and then.
func (b *Box) makeRoom(ctx context.Context, bytes int64) {
	if b.cfg.Bytes == 0 || b.added.Add(bytes) < b.cfg.part() {
		return
	}
	b.added.Store(0)
	b.joinTrim(ctx)
}

// joinTrim has what is kept trimmed to its bound.
func (b *Box) joinTrim(ctx context.Context) {
	if _, err := b.trims.Join(ctx); err != nil && ctx.Err() == nil {
		b.cfg.Logger.Warn("store: the outbox could not be trimmed to its limit", "err", err)
	}
}

// holding is what the broker has of one tenant, in its order.
type holding struct {
	tenant string
	bytes  int64
	rows   []heldRow
}

type heldRow struct {
	seq   uint64
	bytes int64
}

// trim removes the oldest items of the tenants with most, if there are too many.
func (b *Box) trim() (none struct{}, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), trimTime)
	defer cancel()
	state, err := b.info(ctx)
	if err != nil || b.cfg.Bytes == 0 || takes(state) <= b.cfg.high() {
		return none, err
	}
	holdings, all, err := b.holdings(ctx)
	if err != nil {
		return none, err
	}
	room := max(b.cfg.low()/2, b.cfg.low()-(takes(state)-all)) // however many tenants there are
	cut, most := 0, level(holdings, room)
	for _, h := range holdings {
		if h.bytes > most {
			n, err := b.cutTo(ctx, h, most)
			if cut += n; err != nil {
				return none, err
			}
		}
	}
	if b.cut.Add(int64(cut)); cut == 0 {
		return none, nil
	}
	b.cfg.Logger.Warn("store: the outbox has reached its limit: the tenants with most lost their oldest items", "items", cut, "limit", b.cfg.Bytes)
	return none, nil
}

// holdings are what the broker has of all tenants: items, and keys, which go with them.
func (b *Box) holdings(ctx context.Context) (list []*holding, all int64, err error) {
	of := map[string]*holding{}
	err = b.readAll(ctx, true, func(e entry) error {
		h := of[e.tenant]
		if h == nil {
			h = &holding{tenant: e.tenant}
			of[e.tenant], list = h, append(list, h)
		}
		bytes := int64(len(e.msg.Subject())) + int64(stream.ParseSeq(e.msg.Headers().Get("Nats-Msg-Size"))) + rowBytes + messageBytes
		h.bytes += bytes
		h.rows = append(h.rows, heldRow{e.seq, bytes})
		all += bytes
		return nil
	}, b.all(kindItem, ".*"), b.all(kindKey, ".*.*"))
	return list, all, err
}

// rowBytes are what the stream takes for a row's headers and its frame, about.
const rowBytes = 140

// level is how much each may have, so that all together have no more than there is.
func level(holdings []*holding, room int64) int64 {
	slices.SortFunc(holdings, func(a, b *holding) int { return cmp.Compare(b.bytes, a.bytes) })
	rest := int64(0)
	for _, h := range holdings {
		rest += h.bytes
	}
	for i, h := range holdings { // the first i have more than the level
		if i > 0 && (room-rest)/int64(i) >= h.bytes {
			return max(0, (room-rest)/int64(i))
		}
		rest -= h.bytes
	}
	return max(0, room/int64(max(1, len(holdings))))
}

// cutTo removes the oldest of a tenant until it has no more than so many bytes. It returns how
// many items have gone.
func (b *Box) cutTo(ctx context.Context, h *holding, most int64) (items int, err error) {
	left, seq := h.bytes, uint64(0)
	for _, r := range h.rows {
		if left <= most {
			break
		}
		left -= r.bytes
		seq = r.seq
	}
	purged, err := b.stream.Purge(ctx, b.itemsSubject(h.tenant), seq+1)
	if err == nil {
		_, err = b.stream.Purge(ctx, b.subject(kindKey, h.tenant)+".>", seq+1)
	}
	return int(purged), err
}
