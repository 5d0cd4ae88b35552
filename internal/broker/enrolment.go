package broker

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"realtimehub/internal/broker/table"
	"realtimehub/internal/cluster"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
)

// enrolment is what is known of a tenant's rooms.
type enrolment struct {
	loaded atomic.Bool              // all rows that there were are read
	place  atomic.Uint64            // in the table: all up to here is known
	beside atomic.Pointer[[]string] // the place of the last row, as it goes with events
	due    atomic.Uint64            // all that holds before this place in the history is known

	telling sync.Mutex // held while the tenant is told of rows; before the tenant's
	life    int        // guarded by telling: counts how often it began anew; -1: it is over

	mu sync.Mutex
	// Guarded by mu.
	rooms   map[event.Room]uint64 // a room's own place in the table
	reading *reading              // under way

	refs int // guarded by sharedRooms.mu
}

// reading is a part of the table that is being read, for all who wait for it.
type reading struct {
	done chan struct{}
	err  error // before done is closed
}

const readTime = 2 * time.Minute // that all of a tenant may take to be read

const progressTime = 5 * time.Millisecond // how often who waits for a part looks whether it is read

func (s *sharedRooms) enrolment(tenant string) *enrolment {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.enrolled[tenant]
}

// catchUp has a tenant's rows read up to a place, and the tenant told what changed. What
// was read is kept, whoever waited for it.
func (s *sharedRooms) catchUp(ctx context.Context, tenant string, e *enrolment, place uint64) error {
	for e.place.Load() < place {
		e.mu.Lock()
		under := e.reading
		if under == nil {
			under = &reading{done: make(chan struct{})}
			e.reading = under
			go func() {
				under.err = s.read(tenant, e, place)
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

func (s *sharedRooms) read(tenant string, e *enrolment, place uint64) error {
	ctx, cancel := context.WithTimeout(s.ctx, readTime)
	defer cancel()
	e.telling.Lock()
	life := e.life
	e.telling.Unlock()
	patient := true
	var begun roomChange // of which more may follow
	if err := s.table.Read(ctx, tenant, e.place.Load(), place, func(rows []table.Row) error {
		now := s.log.journal.Epoch()
		notUnderstood := func(place uint64, err error) { s.log.notUnderstood("membership", tenant, place, err) }
		for c := range changesOf(rows, now, s.log.epochOf(tenant, now).Text(), notUnderstood) {
			if c.version > 0 {
				s.whole(e, life, begun)
				begun = c
			}
			if patient && c.place > 0 { // events that came before it are delivered before it
				e.due.Store(c.place)
				reaching, cancel := context.WithTimeout(ctx, reachTime)
				patient = s.log.journal.Reach(reaching, tenant, c.life, c.place) == nil
				cancel()
				e.due.Store(0)
			}
			if err := s.tell(tenant, e, life, c); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	s.whole(e, life, begun)
	e.telling.Lock()
	defer e.telling.Unlock()
	if e.life != life || life < 0 {
		return errOver
	}
	e.place.Store(max(e.place.Load(), place))
	return nil
}

// tell tells of a change, and that it is known.
func (s *sharedRooms) tell(tenant string, e *enrolment, life int, c roomChange) error {
	e.telling.Lock()
	defer e.telling.Unlock()
	if e.life != life || life < 0 {
		return errOver
	}
	s.notify(tenant, c)
	e.beside.Store(s.besideOf(c.last))
	e.place.Store(c.last)
	return nil
}

// changed reads what has changed of tenants that are here.
func (s *sharedRooms) changed(ctx context.Context, tenants []string, place uint64) error {
	var all sync.WaitGroup
	var fault atomic.Pointer[error]
	turns := make(chan struct{}, readsAtOnce)
	for _, tenant := range tenants {
		e := s.enrolment(tenant)
		if e == nil {
			continue
		}
		turns <- struct{}{}
		all.Go(func() {
			if err := s.catchUp(ctx, tenant, e, place); err != nil && s.enrolment(tenant) == e { // else it is not here any more
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

// reached reads a tenant's rows up to a place that a call names, if we need them, and says
// that we have.
func (s *sharedRooms) reached(c cluster.Call) bool {
	e := s.enrolment(c.Tenant)
	if e == nil {
		return true
	}
	ctx, cancel := context.WithTimeout(s.ctx, 5*reachTime) // who asks may have given up before
	defer cancel()
	other := func() bool { return c.Life != "" && c.Life != *s.life.Load() }
	if other() && (s.look(ctx) != nil || other()) {
		return false
	}
	return s.catchUp(ctx, c.Tenant, e, c.Place) == nil
}

// whole notes a room's version once all of the change is told of: who knows it may change
// the room from there.
func (s *sharedRooms) whole(e *enrolment, life int, c roomChange) {
	e.telling.Lock()
	defer e.telling.Unlock()
	if c.version > 0 && e.life == life {
		e.mu.Lock()
		e.rooms[c.room] = c.version
		e.mu.Unlock()
	}
}

// notify tells a tenant of a change, and of which history its places are; what is being
// told to the tenant is locked. It returns that history.
func (s *sharedRooms) notify(tenant string, c roomChange) history.Epoch {
	for {
		life := s.log.journal.Epoch()
		of := s.log.epochOf(tenant, life)
		if c.life != life {
			c.life = life
			for i, b := range c.changed {
				c.changed[i] = b.Restarted(c.room)
			}
		}
		if s.changes(tenant, of, c.room, c.changed); s.log.journal.Epoch() == life {
			return of
		}
	}
}
