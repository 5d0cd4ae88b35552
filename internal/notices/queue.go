package notices

import (
	"context"
	"encoding/json"
	"strconv"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/event"
	"realtimehub/internal/outbox"
	"realtimehub/internal/sized"
)

const (
	workers    = 4 // that put, each of another tenant
	mostSteps  = 1000
	mostItems  = 100 // that are put together
	mostBytes  = 64 << 10
	putAgain   = time.Second // after one that failed
	putTime    = 10 * time.Second
	queueBytes = 400
	// noticeBytes is what a notice takes beside its texts, with its places in tables.
	noticeBytes = 400
)

// subject is whom or what a state is of.
type subject struct {
	profile event.Profile
	room    event.Room
}

// notice is a draft that waits.
type notice struct {
	of    subject // zero: it is no state
	draft outbox.Draft
	bytes int64
}

func newNotice(of subject, draft outbox.Draft) notice {
	bytes := noticeBytes + of.profile.Bytes() + sized.Text(of.room.ID) + sized.Block(len(draft.Data))
	return notice{of: of, draft: draft, bytes: bytes}
}

func newStep(kind outbox.Type, c Connection) notice {
	data, _ := json.Marshal(c) // of texts alone
	return newNotice(subject{}, outbox.Draft{Type: kind, At: time.Now(), Data: data})
}

// queue is what waits of a tenant; guarded by the Notices' mu.
type queue struct {
	states map[subject]notice
	order  []subject // of states, the first that changed first
	steps  []notice
	batch  batch // is being put, or is to be put again as it is
	busy   bool  // it is in the turn, or somebody puts it
}

// batch is what is put together. What became of one that failed is not known: it is put again
// with the same key, before anything that came later.
type batch struct {
	key     string
	notices []notice
}

func (q *queue) empty() bool { return len(q.states)+len(q.steps)+len(q.batch.notices) == 0 }

// has says whether a state of somebody is about to be put.
func (q *queue) has(of subject) bool {
	if _, waits := q.states[of]; waits {
		return true
	}
	for i := range q.batch.notices {
		if q.batch.notices[i].of == of {
			return true
		}
	}
	return false
}

func (n *Notices) queueLocked(tenant string) *queue {
	q := n.tenants.Get(tenant)
	if q == nil {
		q = &queue{states: map[subject]notice{}}
		n.tenants.Put(tenant, q)
		n.cfg.State.Force(tenant, queueBytes+sized.Text(tenant))
	}
	return q
}

// readyLocked has a tenant's queue be put.
func (n *Notices) readyLocked(tenant string, q *queue) {
	if q.busy {
		return
	}
	q.busy = true
	n.turn = append(n.turn, tenant)
	n.waiting++
	n.nudge()
}

// nudge has a worker look.
func (n *Notices) nudge() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

func (n *Notices) takeLocked(tenant string, w notice) bool { return n.cfg.State.Take(tenant, w.bytes) }

func (n *Notices) dropLocked(tenant string) {
	n.dropped++
	if times, is := n.dropping.Due(time.Now()); is {
		n.cfg.Logger.Warn("services are not told of all that has happened: too much waits for the outbox", "tenant", tenant, "dropped", times)
	}
	n.tidyLocked(tenant)
}

// tidyLocked forgets a tenant of which nothing waits.
func (n *Notices) tidyLocked(tenant string) {
	if q := n.tenants.Get(tenant); q != nil && q.empty() && !q.busy {
		n.tenants.Delete(tenant)
		n.cfg.State.Give(tenant, queueBytes+sized.Text(tenant))
	}
}

// state takes a state: the place of an earlier one that waits is its own.
func (n *Notices) state(tenant string, of subject, draft outbox.Draft) {
	w := newNotice(of, draft)
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.tellsLocked(tenant) {
		n.standLocked(tenant, w)
		if n.ours && !n.tellsLocked(tenant) {
			return // it stands behind what is taken over first
		}
		if q := n.tenants.Get(tenant); !n.ours && (q == nil || !q.has(of)) {
			return
		}
	}
	n.stateLocked(tenant, w)
}

func (n *Notices) stateLocked(tenant string, w notice) {
	q := n.queueLocked(tenant)
	was, waits := q.states[w.of]
	if more := w.bytes - was.bytes; more > 0 && !n.cfg.State.Take(tenant, more) {
		n.dropLocked(tenant)
		return
	} else if more < 0 {
		n.cfg.State.Give(tenant, -more)
	}
	if !waits {
		q.order = append(q.order, w.of)
	}
	q.states[w.of] = w
	n.readyLocked(tenant, q)
}

// stepLocked takes what has happened, if no more of that waits than may.
func (n *Notices) stepLocked(tenant string, w notice, most int) {
	q := n.queueLocked(tenant)
	if len(q.steps) >= most || !n.takeLocked(tenant, w) {
		n.dropLocked(tenant)
		return
	}
	q.steps = append(q.steps, w)
	n.readyLocked(tenant, q)
}

// work puts one tenant's after the other's.
func (n *Notices) work(ctx context.Context) {
	for {
		tenant, b, any := n.next()
		if !any {
			select {
			case <-n.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		err := n.put(ctx, tenant, b)
		n.done(tenant, b, err)
		if err == nil {
			continue
		}
		if times, is := n.failing.Due(time.Now()); is && ctx.Err() == nil {
			n.cfg.Logger.Warn("what services are told could not be put into the outbox, and is put again", "tenant", tenant, "times", times, "err", err)
		}
		select {
		case <-time.After(putAgain):
		case <-ctx.Done():
			return
		}
	}
}

// next is the batch of the tenant whose turn it is.
func (n *Notices) next() (tenant string, b batch, any bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.turn) == 0 {
		return "", b, false
	}
	tenant, n.turn = n.turn[0], n.turn[1:]
	if len(n.turn) == 0 {
		n.turn = nil
	} else {
		n.nudge()
	}
	q := n.tenants.Get(tenant)
	if len(q.batch.notices) == 0 {
		q.batch = q.gather()
	}
	return tenant, q.batch, true
}

// gather takes what is put together out of a queue: states first, since what happened to
// connections may go.
func (q *queue) gather() batch {
	b, bytes, states, steps := batch{key: uuid.NewString()}, 0, 0, 0
	add := func(w notice) bool {
		bytes += len(w.draft.Data)
		if len(b.notices) > 0 && (len(b.notices) == mostItems || bytes > mostBytes) {
			return false
		}
		b.notices = append(b.notices, w)
		return true
	}
	for states < len(q.order) && add(q.states[q.order[states]]) {
		delete(q.states, q.order[states])
		states++
	}
	for states == len(q.order) && steps < len(q.steps) && add(q.steps[steps]) {
		steps++
	}
	q.order, q.steps = rest(q.order, states), rest(q.steps, steps)
	if len(q.states) == 0 {
		q.states = map[subject]notice{} // one of Go's never gets smaller
	}
	return b
}

// rest is a list without its first n, which it keeps no memory of.
func rest[T any](list []T, n int) []T {
	if n == len(list) {
		return nil
	}
	clear(list[:n])
	return list[n:]
}

func (n *Notices) put(ctx context.Context, tenant string, b batch) error {
	ctx, cancel := context.WithTimeout(ctx, putTime)
	defer cancel()
	drafts := make([]outbox.Draft, len(b.notices))
	for i := range b.notices {
		drafts[i] = b.notices[i].draft
	}
	return n.cfg.Box.Put(ctx, tenant, "notices-"+b.key+"-"+strconv.Itoa(len(drafts)), drafts)
}

// done notes that a batch was put, or is to be put again.
func (n *Notices) done(tenant string, b batch, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	q := n.tenants.Get(tenant)
	if err == nil {
		for i := range b.notices {
			n.cfg.State.Give(tenant, b.notices[i].bytes)
		}
		q.batch = batch{}
	}
	if !q.empty() {
		n.turn = append(n.turn, tenant)
		n.nudge()
		return
	}
	q.busy = false
	n.tidyLocked(tenant)
	if n.waiting--; n.waiting == 0 && n.idle != nil {
		close(n.idle)
		n.idle = nil
	}
}
