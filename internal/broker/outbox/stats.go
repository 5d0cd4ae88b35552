package outbox

import (
	"context"
	"encoding/json"
	"time"

	"realtimehub/internal/broker/stream"
	"realtimehub/internal/outbox"
)

// sweepTime is how long Sweep may take.
const sweepTime = time.Minute

// mostAsked is of how many tenants Sweep learns since when they have something that was not taken.
const mostAsked = 1000

// Sweep implements outbox.Box. What is too old goes by the broker's clock.
func (b *Box) Sweep(now time.Time) {
	ctx, cancel := context.WithTimeout(context.Background(), sweepTime)
	defer cancel()
	if _, err := b.looks.Join(ctx); err != nil {
		b.cfg.Logger.Debug("store: the outbox could not be looked at", "err", err)
		return
	}
	b.joinTrim(ctx)
	if f := b.followed(); f != nil {
		f.sweep(ctx, now)
	}
}

func (b *Box) followed() *follower {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.follower
}

// Stats implements outbox.Box. What was not taken is known to who follows, and since when it
// is after Sweep.
func (b *Box) Stats() outbox.Stats {
	ctx, cancel := context.WithTimeout(context.Background(), stream.AskTimeout)
	defer cancel()
	stats := outbox.Stats{Limit: b.cfg.Bytes, Cut: b.cut.Load()}
	state, err := b.info(ctx)
	if err == nil {
		stats.Items, err = b.count(ctx)
	}
	stats.Unknown = err != nil
	if err == nil {
		stats.Bytes = takes(state)
	}
	if f := b.followed(); f != nil {
		stats.Untaken, stats.Since = f.untaken()
	}
	return stats
}

// count is how many items are kept.
func (b *Box) count(ctx context.Context) (int, error) {
	body, err := json.Marshal(stream.Get{Seq: 1, Next: b.all(kindItem, ".*"), Batch: 1})
	if err != nil {
		return 0, err
	}
	first, err := b.stream.Ask(ctx, stream.NewMessage("$JS.API.DIRECT.GET."+b.stream.Name, body))
	if err != nil || first.Header.Get("Nats-Sequence") == "" {
		return 0, err
	}
	return 1 + int(stream.ParseSeq(first.Header.Get("Nats-Num-Pending"))), nil
}

// untaken is how many items were not taken, and since when.
func (f *follower) untaken() (n int, since time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for l := range f.lines.Values() {
		some := l.untaken()
		if n += some; some > 0 && !l.since.IsZero() && (since.IsZero() || l.since.Before(since)) {
			since = l.since
		}
	}
	return n, since
}

// sweep forgets tenants of whom nothing is kept any more, and learns since when others have
// something that was not taken.
func (f *follower) sweep(ctx context.Context, now time.Time) {
	asked := map[string]line{}
	f.mu.Lock()
	for tenant, l := range f.lines.All() {
		switch {
		case now.Sub(l.at) >= rowTTL:
			f.lines.Delete(tenant)
		case l.untaken() > 0 && (l.since.IsZero() || now.Sub(l.since) >= itemTTL) && len(asked) < mostAsked:
			asked[tenant] = l
		}
	}
	f.mu.Unlock()
	for tenant, l := range asked {
		item, err := f.b.after(ctx, tenant, l.first()-1, l.head)
		if err != nil {
			return
		}
		f.mu.Lock()
		if now := f.lines.Get(tenant); now.head.seq > 0 && now.first() == l.first() {
			now.oldest, now.since = item.place, item.at
			f.lines.Put(tenant, now)
		}
		f.mu.Unlock()
	}
}
