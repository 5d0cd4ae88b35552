package outbox

import (
	"context"
	"fmt"
	"sync"

	"realtimehub/internal/broker/stream"
)

// queues have what is put for one tenant wait while something is put: all that waits goes
// together then, as the broker takes about as long for many messages as for one.
type queues struct {
	places chan struct{}                           // static; has one for each tenant that is put for
	put    func(tenant string, together []*parcel) // static; fills in their errors

	mu sync.Mutex
	of map[string][]*parcel // by tenant, while something is put for it; guarded by mu
}

func newQueues(atOnce int, put func(string, []*parcel)) *queues {
	return &queues{places: make(chan struct{}, atOnce), put: put, of: map[string][]*parcel{}}
}

// add has a parcel put, and waits for it.
func (q *queues) add(ctx context.Context, tenant string, p *parcel) error {
	p.done = make(chan struct{})
	q.mu.Lock()
	waiting, runs := q.of[tenant]
	q.of[tenant] = append(waiting, p)
	q.mu.Unlock()
	if !runs {
		go q.run(tenant)
	}
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", stream.ErrUnconfirmed, ctx.Err())
	}
}

// run puts what waits for a tenant, until nothing does.
func (q *queues) run(tenant string) {
	for {
		q.places <- struct{}{}
		together := q.next(tenant)
		if len(together) > 0 {
			q.put(tenant, together)
			for _, p := range together {
				close(p.done)
			}
		}
		<-q.places
		if len(together) == 0 {
			return
		}
	}
}

// next takes what goes together in one batch; if there is nothing, it is over.
func (q *queues) next(tenant string) []*parcel {
	q.mu.Lock()
	defer q.mu.Unlock()
	waiting := q.of[tenant]
	n, messages, bytes := 0, 1, 0 // a head
	for n < len(waiting) {
		p := waiting[n]
		messages, bytes = messages+len(p.drafts)+1, bytes+p.bytes()
		if n > 0 && (messages > stream.BatchLimit || bytes > bytesOfBatch) {
			break
		}
		n++
	}
	if n == 0 {
		delete(q.of, tenant)
		return nil
	}
	q.of[tenant] = waiting[n:]
	return waiting[:n:n]
}
