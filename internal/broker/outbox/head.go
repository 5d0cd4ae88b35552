package outbox

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/broker/stream"
	"realtimehub/internal/outbox"
	"realtimehub/internal/sized"
)

// head is which place a tenant was given last. Places of a run follow each other; where some may
// have been lost, another run begins.
type head struct {
	newest uint64
	begin  uint64 // the first place of its run
	before uint64 // the last place of the run before that; 0: there was none
	start  uint64 // the first place of the first run

	seq uint64 // where the row is in the stream; 0: there is none
}

// headRow is how a head is kept.
const headRow = "%d %d %d %d"

func (h head) data() []byte { return fmt.Appendf(nil, headRow, h.newest, h.begin, h.before, h.start) }

// parseHead reads a tenant's head, which is at a place in the stream. One that is not understood is
// told of.
func (b *Box) parseHead(tenant string, data []byte, seq uint64) (head, error) {
	h := head{seq: seq}
	if _, err := fmt.Sscanf(string(data), headRow, &h.newest, &h.begin, &h.before, &h.start); err != nil {
		err = fmt.Errorf("the head of an outbox cannot be read: %w", err)
		b.cfg.Unread(tenant, seq, err)
		return head{}, err
	}
	return h, nil
}

// anew is a head from which a run begins, past any place that was given.
func (h head) anew(known uint64) head {
	next := h
	next.begin = max(outbox.First(time.Now()), h.newest+1, known+1)
	next.newest = next.begin - 1
	if h.newest >= h.begin { // else nothing was put in its run
		next.before = h.newest
	}
	if h.seq == 0 {
		next.before, next.start = 0, next.begin
	}
	return next
}

// taken is the place up to which all was taken, where a row says that it was up to another one.
func (h head) taken(row uint64) uint64 {
	if row < h.before {
		return max(row, h.start-1)
	}
	return max(row, h.begin-1)
}

// rowOf is a row of a tenant as the leader tells it.
func (b *Box) rowOf(ctx context.Context, kind, tenant string) (data []byte, seq uint64, err error) {
	get := stream.Get{Last: b.subject(kind, tenant)}
	m, err := b.stream.Leader(ctx, get)
	if err != nil && b.made(ctx, err) {
		m, err = b.stream.Leader(ctx, get)
	}
	return m.Data, m.Seq, err
}

// headOf is a tenant's head as the leader tells it.
func (b *Box) headOf(ctx context.Context, tenant string) (head, error) {
	data, seq, err := b.rowOf(ctx, kindHead, tenant)
	if err != nil || seq == 0 {
		return head{}, err
	}
	return b.parseHead(tenant, data, seq)
}

// settled is a tenant's head as it is, also where a place is asked for that it does not have:
// who tells of it may lead no more, and not know it yet. If the broker has lost what it had told
// before, another run begins.
func (b *Box) settled(ctx context.Context, tenant string, after uint64) (head, error) {
	if err := b.whole(ctx); err != nil {
		return head{}, err
	}
	known := b.knownOf(tenant) // before the head is asked for, or it might be newer
	h, err := b.headOf(ctx, tenant)
	switch {
	case err != nil:
	case h.newest < known:
		if h, err = b.jump(ctx, tenant, h, known); err == nil {
			b.cfg.Logger.Error("store: items of the outbox may have been lost: the tenant's services are told of a gap", "tenant", tenant)
		}
	case h.newest < after && b.cfg.Replicas > 1:
		err = b.confirm(ctx, tenant, h)
	}
	if err != nil {
		return head{}, err
	}
	b.know(tenant, h.newest)
	return h, nil
}

// jump has another run begin, unless the head is another one than it was.
func (b *Box) jump(ctx context.Context, tenant string, h head, known uint64) (head, error) {
	next := h.anew(known)
	seq, err := b.keepOne(ctx, row(b.subject(kindHead, tenant), next.data(), rowTTL, h.seq))
	if stream.WasSecond(err) {
		return head{}, stream.ErrStale
	}
	if err != nil {
		return head{}, err
	}
	next.seq = seq
	b.know(tenant, next.newest)
	return next, nil
}

// confirm has the broker agree that a head is the last one of its tenant.
func (b *Box) confirm(ctx context.Context, tenant string, h head) error {
	msg := row(b.proof(), nil, time.Minute, h.seq)
	msg.Header[jetstream.ExpectedLastSubjSeqSubjHeader] = []string{b.subject(kindHead, tenant)}
	_, err := b.keepOne(ctx, msg)
	if stream.WasSecond(err) {
		return stream.ErrStale
	}
	return err
}

// mostKnown bounds of how many tenants places are known here. Those of whom none is known, are
// known again when they are next read or put for.
const mostKnown = 100_000

func (b *Box) knownOf(tenant string) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.known.Get(tenant)
}

func (b *Box) know(tenant string, place uint64) {
	if place == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.known.Len() >= mostKnown {
		b.known = sized.Table[string, uint64]{}
	}
	b.known.Put(tenant, max(place, b.known.Get(tenant)))
}
