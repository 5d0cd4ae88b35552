package outbox

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"

	"realtimehub/internal/broker/stream"
)

// keep has the broker keep messages, all or none.
func (b *Box) keep(ctx context.Context, messages ...*nats.Msg) (last uint64, err error) {
	seen := b.seen.Load()
	last, _, err = b.stream.Publish(ctx, b.stream.BatchName(), messages, nil)
	if err != nil {
		return 0, err
	}
	if last <= seen {
		b.seen.Store(last)
		b.twice.Store(true)
	}
	b.saw(last)
	return last, nil
}

// keepOne is keep of one message, within the time for it.
func (b *Box) keepOne(ctx context.Context, msg *nats.Msg) (seq uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, keepTime)
	defer cancel()
	return b.keep(ctx, msg)
}

// saw notes a place that the stream has given.
func (b *Box) saw(seq uint64) {
	for {
		was := b.seen.Load()
		if seq <= was || b.seen.CompareAndSwap(was, seq) {
			return
		}
	}
}

// info asks the leader for the stream's state, which is made anew if it has gone.
func (b *Box) info(ctx context.Context) (stream.State, error) {
	s, err := b.stream.Info(ctx)
	if err != nil && b.made(ctx, err) {
		s, err = b.stream.Info(ctx)
	}
	return s, err
}

// whole makes sure, once after each time that this process was away, that the broker has not lost
// the last of what it had kept.
func (b *Box) whole(ctx context.Context) error {
	connected := b.nc.Stats().Reconnects
	if connected == b.looked.Load() && !b.twice.Load() && !b.torn.Load() {
		return nil
	}
	_, err := b.looks.Join(ctx)
	if err == nil {
		b.looked.Store(connected)
	}
	return err
}

// Renew has another run of places begin for all tenants. It is for when it is known that the
// broker may have lost the last of what it had kept.
func (b *Box) Renew(ctx context.Context) error {
	b.torn.Store(true)
	return b.whole(ctx)
}

// Beside says which life the history has beside which the outbox is kept. With another than
// before a backup was restored, which has an earlier end: another run of places begins.
func (b *Box) Beside(ctx context.Context, life string) error {
	subject := b.cfg.Prefix + ".outbox.beside"
	known, err := b.stream.Leader(ctx, stream.Get{Last: subject})
	if err != nil || string(known.Data) == life {
		return err
	}
	if known.Seq > 0 {
		if err := b.Renew(ctx); err != nil {
			return err
		}
	}
	_, err = b.keepOne(ctx, stream.NewMessage(subject, []byte(life)))
	return err
}

// lookTime is how long all heads may take to be read and written.
const lookTime = time.Minute

// look finds out whether the stream has lost its end, and then has another run begin for all.
func (b *Box) look() (none struct{}, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), lookTime)
	defer cancel()
	seen := b.seen.Load()
	s, err := b.info(ctx)
	switch {
	case err != nil:
		return none, err
	case s.Life() != b.life: // it was made anew: each tenant's places begin past all others
		b.life = s.Life()
		b.seen.Store(s.Last)
		b.twice.Store(false)
	case s.Last < seen: // unless it is told by who leads no more
		_, err = b.keepOne(ctx, fading(b.proof(), nil, time.Minute))
	}
	if err == nil && (b.twice.Load() || b.torn.Load()) {
		if err = b.renew(ctx); err == nil {
			b.twice.Store(false)
			b.torn.Store(false)
		}
	}
	return none, err
}

func (b *Box) renew(ctx context.Context) error {
	b.cfg.Logger.Error("store: the last of the outbox may be lost: all services are told of a gap")
	heads := map[string]head{}
	err := b.readAll(ctx, false, func(e entry) error {
		if h, err := b.parseHead(e.tenant, e.msg.Data(), e.seq); err == nil { // else it stands still by itself
			heads[e.tenant] = h
		}
		return nil
	}, b.all(kindHead, ""))
	for tenant, h := range heads {
		for err == nil {
			if _, err = b.jump(ctx, tenant, h, b.knownOf(tenant)); err == nil {
				break
			}
			if errors.Is(err, stream.ErrStale) && stream.Pause(ctx) { // somebody has put meanwhile
				h, err = b.headOf(ctx, tenant)
			}
		}
	}
	return err
}

func (b *Box) proof() string { return b.cfg.Prefix + ".outbox." + stream.ProofName }
