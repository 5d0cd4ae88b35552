package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"realtimehub/internal/broker/table"
	"realtimehub/internal/cluster"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/room"
)

// sharedRooms is the room.Shared of a Broker: a table with a row for each membership. A change
// is known to all hubs before it is answered, since each is asked to read up to it.
//
// A hub that does not answer for long is given up, and no longer asked. So each event carries
// the place in the table up to which its publisher knows it, and every hub reads up to there
// before it delivers the event. A hub that may have been given up looks at the table before
// it delivers or resumes anything else.
type sharedRooms struct {
	log     *sharedLog
	table   *table.Table // set by open
	askAll  askAll
	changes func(tenant string, of history.Epoch, room event.Room, changed []room.Membership)
	forget  func(tenant string)
	logger  *slog.Logger
	life    atomic.Pointer[string] // of the table
	here    attendance
	done    sync.WaitGroup
	ctx     context.Context
	end     func() // ends ctx

	mu       sync.Mutex
	enrolled map[string]*enrolment // guarded by mu: tenants whose rooms are known
}

// askAll asks all other hubs.
type askAll func(context.Context, cluster.Call) (answers []cluster.Answer, silent []string)

// newSharedRooms makes the rooms, which have to be opened.
func newSharedRooms(log *sharedLog, ask askAll, logger *slog.Logger) *sharedRooms {
	s := &sharedRooms{log: log, askAll: ask, enrolled: map[string]*enrolment{}, logger: logger}
	s.ctx, s.end = context.WithCancel(context.Background())
	return s
}

// open opens the table. The log is open by then, and counts on it from now on.
func (s *sharedRooms) open(ctx context.Context, nc *nats.Conn, cfg Config) (err error) {
	s.table, err = table.Open(ctx, nc, table.Config{
		Prefix: cfg.Prefix, Replicas: cfg.Replicas, Age: cfg.Limits.TTL, Logger: cfg.Logger, Changed: s.changed, Lost: s.lost,
	})
	if err == nil {
		s.log.journal.Requires("membership", s.table.Try)
	}
	return err
}

// Times of membership.
const (
	reachTime = time.Second            // that other hubs have to read a change
	rowTime   = 200 * time.Microsecond // more, for each of its rows
	sureTime  = 2 * time.Second        // that a request waits until this hub is sure
	awaitTime = 5 * time.Second        // and an event
	lookEvery = 2 * time.Second
)

// besideOf is how a tenant's last row goes with its events.
func (s *sharedRooms) besideOf(row uint64) *[]string {
	return &[]string{*s.life.Load() + " " + strconv.FormatUint(row, 10)}
}

// Follow implements room.Shared.
func (s *sharedRooms) Follow(changes func(string, history.Epoch, event.Room, []room.Membership), forget func(string)) {
	s.changes, s.forget = changes, forget
}

// Attach implements room.Shared.
func (s *sharedRooms) Attach(ctx context.Context, tenant string) error {
	s.mu.Lock()
	e := s.enrolled[tenant]
	if e == nil {
		e = &enrolment{rooms: map[event.Room]uint64{}}
		e.beside.Store(s.besideOf(0))
		s.enrolled[tenant] = e
	}
	e.refs++
	s.mu.Unlock()
	// The leader knows all changes that were confirmed before this. For a later one this hub
	// is asked, since it is enrolled now.
	last, err := s.table.Last(ctx, tenant)
	if err == nil {
		err = s.catchUp(ctx, tenant, e, last)
	}
	if err != nil {
		s.Detach(tenant)
		return logError(err)
	}
	e.loaded.Store(true)
	return nil
}

// Detach implements room.Shared.
func (s *sharedRooms) Detach(tenant string) {
	s.mu.Lock()
	e := s.enrolled[tenant]
	over := false
	if e != nil {
		e.refs--
		if over = e.refs == 0; over {
			delete(s.enrolled, tenant)
		}
	}
	s.mu.Unlock()
	if over {
		e.telling.Lock() // what is being read is told of no more: somebody may begin anew
		e.life = -1
		e.telling.Unlock()
	}
}

// Now implements room.Shared.
func (s *sharedRooms) Now(ctx context.Context, tenant string, in event.Room) (now room.State, err error) {
	if e := s.enrolment(tenant); e != nil {
		e.telling.Lock()
		now.Now.Epoch = s.notify(tenant, roomChange{})
		e.telling.Unlock()
		e.mu.Lock()
		now.Version = e.rooms[in]
		e.mu.Unlock()
	}
	now.Now.Seq, err = s.log.journal.Last(ctx, tenant)
	if err != nil {
		return room.State{}, logError(err)
	}
	return now, nil
}

// Change implements room.Shared.
func (s *sharedRooms) Change(ctx context.Context, tenant string, in event.Room, was room.State, changed []room.Membership, empty bool) error {
	e := s.enrolment(tenant)
	if e == nil || s.log.epochOf(tenant, s.log.journal.Epoch()) != was.Now.Epoch {
		return room.ErrConflict
	}
	life, at := *s.life.Load(), e.place.Load()
	rows, err := rowsOf(was, changed)
	if err != nil {
		return err
	}
	if len(rows) > 0 {
		if at, err = s.put(ctx, tenant, e, in, was.Version, rows, empty, at); err != nil {
			return err
		}
	}
	// Also where nothing is to change: somebody may have been told that it was not
	// known to all yet.
	ctx, cancel := context.WithTimeout(ctx, reachTime+time.Duration(len(rows))*rowTime)
	defer cancel()
	answers, silent := s.askAll(ctx, cluster.Call{Op: cluster.CallRooms, Tenant: tenant, Place: at, Life: life})
	for _, a := range answers {
		if !a.Found {
			silent = append(silent, "one that could not read the membership table")
		}
	}
	if len(silent) > 0 {
		return fmt.Errorf("%w: these hubs have not confirmed the change: %v", history.ErrUnconfirmed, silent)
	}
	return nil
}

// rowsOf are the rows of memberships that change, as of a state.
func rowsOf(was room.State, changed []room.Membership) ([]table.Row, error) {
	rows := make([]table.Row, len(changed))
	for i, b := range changed {
		row := membershipRow{Epoch: was.Now.Epoch.Text(), Place: was.Now.Seq, Member: b.Member, Forgot: b.Forgot}
		if more := len(b.Stays) - mostStays; more > 0 {
			row.Forgot = max(row.Forgot, b.Stays[more-1].Until)
			b.Stays = b.Stays[more:]
		}
		for _, stay := range b.Stays {
			row.Stays = append(row.Stays, [2]uint64{stay.From, stay.Until})
		}
		data, err := json.Marshal(row)
		if err != nil {
			return nil, err
		}
		rows[i] = table.Row{Name: b.Profile.String(), Data: data, Fades: !b.Member}
	}
	return rows, nil
}

// put writes rows of a room that has a version still, and has this hub know them; at is the
// place up to which it knows the table. It returns the place of the last of them.
func (s *sharedRooms) put(ctx context.Context, tenant string, e *enrolment, in event.Room, version uint64, rows []table.Row, empty bool, at uint64) (last uint64, err error) {
	last, err = s.table.Put(ctx, tenant, groupOf(in), version, rows, empty)
	if errors.Is(err, table.ErrConflict) {
		if err = s.refresh(ctx, tenant, e, in); err == nil {
			return 0, room.ErrConflict
		}
	}
	if err != nil {
		return 0, logError(err)
	}
	if last <= at { // it was given before: the table is another
		if err = s.refresh(ctx, tenant, e, in); err == nil {
			return 0, room.ErrConflict
		}
	} else {
		err = s.catchUp(ctx, tenant, e, last)
	}
	if err != nil {
		return 0, fmt.Errorf("%w: %w", history.ErrUnconfirmed, err)
	}
	return last, nil
}

// refresh learns of a room what it is now: it has changed, its own row has faded, or the
// table is another.
func (s *sharedRooms) refresh(ctx context.Context, tenant string, e *enrolment, room event.Room) error {
	if err := s.table.Look(ctx); err != nil {
		return err
	}
	version, last, err := s.table.Version(ctx, tenant, groupOf(room))
	if err == nil {
		err = s.catchUp(ctx, tenant, e, last)
	}
	if err == nil {
		e.mu.Lock()
		e.rooms[room] = version
		e.mu.Unlock()
	}
	return err
}

// lost has all that is known here read again. Since the table is another, the history begins
// anew as well: in that way all who come back are told that something is missing.
func (s *sharedRooms) lost(ctx context.Context, life string, known bool) error {
	if err := s.log.journal.Renew(ctx, "table", life); err != nil {
		return err
	}
	s.mu.Lock()
	enrolled := maps.Clone(s.enrolled)
	for _, e := range enrolled {
		e.place.Store(0) // before it can be taken for one of this table
	}
	s.life.Store(&life)
	s.mu.Unlock()
	if !known {
		return nil
	}
	s.logger.Error("memberships are others than before: a backup was restored, or the store lost them or the last of them")
	s.log.lose(history.KeptMembers)
	s.here.leave() // until it is read again
	for tenant, e := range enrolled {
		e.telling.Lock()
		if e.life >= 0 {
			e.life++
			e.mu.Lock()
			clear(e.rooms)
			e.mu.Unlock()
			e.beside.Store(s.besideOf(0))
			e.place.Store(0)
			s.forget(tenant)
		}
		e.telling.Unlock()
	}
	return nil
}

func (s *sharedRooms) close() {
	s.end()
	s.done.Wait()
}
