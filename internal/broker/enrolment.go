package broker

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"realtimehub/internal/broker/journal"
	"realtimehub/internal/cluster"
	"realtimehub/internal/event"
)

// enrolment is what is known of a tenant's rooms.
type enrolment struct {
	known  atomic.Bool              // all that there was is
	place  atomic.Uint64            // in the table: all up to here is known
	beside atomic.Pointer[[]string] // the place of the last row, as it goes with events
	due    atomic.Uint64            // all that holds before this place in the history is known

	telling sync.Mutex // held while the tenant is told of rows; before the tenant's
	life    int        // guarded by telling: counts how often it began anew; -1: it is over

	mu sync.Mutex
	// Guarded by mu.
	rooms   map[event.Room]uint64 // a room's own place in the table
	reading *reading              // under way

	refs int // guarded by SharedRooms.mu
}

// reading is a part of the table that is being read, for all who wait for it.
type reading struct {
	done chan struct{}
	err  error // before done is closed
}

const readTime = 2 * time.Minute // that all of a tenant may take to be read

const progressTime = 5 * time.Millisecond // how often who waits for a part looks whether it is read

func (r *SharedRooms) enrolment(tenant string) *enrolment {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.enrolled[tenant]
}

// catchUp has a tenant's rows read up to a place, and the tenant told what changed. What
// was read is kept, whoever waited for it.
func (r *SharedRooms) catchUp(ctx context.Context, tenant string, e *enrolment, place uint64) error {
	for e.place.Load() < place {
		e.mu.Lock()
		under := e.reading
		if under == nil {
			under = &reading{done: make(chan struct{})}
			e.reading = under
			go func() {
				under.err = r.read(tenant, e, place)
				e.mu.Lock()
				e.reading = nil
				e.mu.Unlock()
				close(under.done)
			}()
		}
		e.mu.Unlock()
		select {
		case <-under.done:
			if under.err != nil {
				return under.err
			}
		case <-time.After(progressTime): // it may be far enough
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// errOver: what was read is of an enrolment that is over, or began anew.
var errOver = errors.New("the tenant's membership is read anew")

func (r *SharedRooms) read(tenant string, e *enrolment, place uint64) error {
	ctx, cancel := context.WithTimeout(r.ctx, readTime)
	defer cancel()
	e.telling.Lock()
	life := e.life
	e.telling.Unlock()
	patient := true
	var begun roomChange // of which more may follow
	if err := r.Table.Read(ctx, tenant, e.place.Load(), place, func(rows []journal.Row) error {
		now := r.journal.Epoch()
		for c := range changesOf(rows, now, r.epoch(tenant, now).Text(), r.logger.With("tenant", tenant)) {
			if c.version > 0 {
				r.whole(e, life, begun)
				begun = c
			}
			if patient && c.place > 0 { // events that came before it are delivered before it
				e.due.Store(c.place)
				reaching, cancel := context.WithTimeout(ctx, reachTime)
				patient = r.journal.Reach(reaching, tenant, c.life, c.place) == nil
				cancel()
				e.due.Store(0)
			}
			if err := r.tell(tenant, e, life, c); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	r.whole(e, life, begun)
	e.telling.Lock()
	defer e.telling.Unlock()
	if e.life != life || life < 0 {
		return errOver
	}
	e.place.Store(max(e.place.Load(), place))
	return nil
}

// tell tells of a change, and that it is known.
func (r *SharedRooms) tell(tenant string, e *enrolment, life int, c roomChange) error {
	e.telling.Lock()
	defer e.telling.Unlock()
	if e.life != life || life < 0 {
		return errOver
	}
	r.belongs(tenant, c)
	e.beside.Store(r.BesideOf(c.last))
	e.place.Store(c.last)
	return nil
}

// changed reads what has changed of tenants that are here.
func (r *SharedRooms) changed(ctx context.Context, tenants []string, place uint64) error {
	var all sync.WaitGroup
	var fault atomic.Pointer[error]
	turns := make(chan struct{}, readsAtOnce)
	for _, tenant := range tenants {
		e := r.enrolment(tenant)
		if e == nil {
			continue
		}
		turns <- struct{}{}
		all.Go(func() {
			if err := r.catchUp(ctx, tenant, e, place); err != nil && r.enrolment(tenant) == e { // else it is not here any more
				fault.Store(&err)
			}
			<-turns
		})
	}
	all.Wait()
	if err := fault.Load(); err != nil {
		return *err
	}
	return nil
}

// readsAtOnce is of how many tenants what has changed is read at a time.
const readsAtOnce = 16

// Reached reads a tenant's rows up to a place that a call names, if we need them, and says
// that we have.
func (r *SharedRooms) Reached(c cluster.Call) bool {
	e := r.enrolment(c.Tenant)
	if e == nil {
		return true
	}
	ctx, cancel := context.WithTimeout(r.ctx, 5*reachTime) // who asks may have given up before
	defer cancel()
	other := func() bool { return c.Life != "" && c.Life != *r.life.Load() }
	if other() && (r.look(ctx) != nil || other()) {
		return false
	}
	return r.catchUp(ctx, c.Tenant, e, c.Place) == nil
}
