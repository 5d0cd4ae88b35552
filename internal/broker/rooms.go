package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"realtimehub/internal/broker/journal"
	"realtimehub/internal/cluster"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/room"
)

// SharedRooms is the room.Shared of a Broker: a table with a row a belonging. A change
// is known to all hubs before it is answered, since each is asked to read up to it.
//
// A hub that does not answer for long is given up, and not asked. So each event goes with
// the place in the table that its publisher knows, which is read up to before the event is
// delivered; and a hub that may have been given up looks at the table before it delivers
// or resumes anything else.
type SharedRooms struct {
	journal *journal.Journal
	Table   *journal.Table
	epoch   func(tenant, life string) history.Epoch // of places in its history
	AskAll  func(ctx context.Context, c cluster.Call) (answers []cluster.Answer, silent []string)
	heard   func() bool // no other hub is silent, nor was given up lately
	belong  func(tenant string, of history.Epoch, room event.Room, changed []room.Membership)
	forget  func(tenant string)
	lose    func(history.Kept) // counts
	logger  *slog.Logger
	life    atomic.Pointer[string] // of the table
	here    attendance
	done    sync.WaitGroup
	ctx     context.Context
	end     func() // ends ctx

	mu       sync.Mutex
	enrolled map[string]*enrolment // guarded by mu: tenants whose rooms are known
}

func newBrokerRooms(logger *slog.Logger) *SharedRooms {
	r := &SharedRooms{enrolled: map[string]*enrolment{}, logger: logger}
	r.ctx, r.end = context.WithCancel(context.Background())
	return r
}

// Times of membership.
const (
	reachTime = time.Second            // that other hubs have to read a change
	rowTime   = 200 * time.Microsecond // more, for each of its rows
	sureTime  = 2 * time.Second        // that a request waits until this hub is sure
	awaitTime = 5 * time.Second        // and an event
	lookEvery = 2 * time.Second
)

// BesideOf is how a tenant's last row goes with its events.
func (r *SharedRooms) BesideOf(row uint64) *[]string {
	return &[]string{*r.life.Load() + " " + strconv.FormatUint(row, 10)}
}

// Follow implements room.Shared.
func (r *SharedRooms) Follow(belong func(string, history.Epoch, event.Room, []room.Membership), forget func(string)) {
	r.belong, r.forget = belong, forget
}

// Attach implements room.Shared.
func (r *SharedRooms) Attach(ctx context.Context, tenant string) error {
	r.mu.Lock()
	e := r.enrolled[tenant]
	if e == nil {
		e = &enrolment{rooms: map[event.Room]uint64{}}
		e.beside.Store(r.BesideOf(0))
		r.enrolled[tenant] = e
	}
	e.refs++
	r.mu.Unlock()
	// A change that was answered before this is what the leader knows; one that comes
	// later asks us.
	last, err := r.Table.Last(ctx, tenant)
	if err == nil {
		err = r.catchUp(ctx, tenant, e, last)
	}
	if err != nil {
		r.Detach(tenant)
		return logError(err)
	}
	e.known.Store(true)
	return nil
}

// Detach implements room.Shared.
func (r *SharedRooms) Detach(tenant string) {
	r.mu.Lock()
	e := r.enrolled[tenant]
	over := false
	if e != nil {
		e.refs--
		if over = e.refs == 0; over {
			delete(r.enrolled, tenant)
		}
	}
	r.mu.Unlock()
	if over {
		e.telling.Lock() // what is being read is told of no more: somebody may begin anew
		e.life = -1
		e.telling.Unlock()
	}
}

// Now implements room.Shared.
func (r *SharedRooms) Now(ctx context.Context, tenant string, in event.Room) (now room.State, err error) {
	if e := r.enrolment(tenant); e != nil {
		e.telling.Lock()
		now.Now.Epoch = r.belongs(tenant, roomChange{})
		e.telling.Unlock()
		e.mu.Lock()
		defer e.mu.Unlock()
		now.Version = e.rooms[in]
	}
	now.Now.Seq, err = r.journal.Last(ctx, tenant)
	if err != nil {
		return room.State{}, logError(err)
	}
	return now, nil
}

// Change implements room.Shared.
func (r *SharedRooms) Change(ctx context.Context, tenant string, in event.Room, was room.State, changed []room.Membership, empty bool) error {
	e := r.enrolment(tenant)
	if e == nil || r.epoch(tenant, r.journal.Epoch()) != was.Now.Epoch {
		return room.ErrConflict
	}
	life, at := *r.life.Load(), e.place.Load()
	rows := make([]journal.Row, len(changed))
	for i, b := range changed {
		row := BelongingRow{Epoch: was.Now.Epoch.Text(), Place: was.Now.Seq, Member: b.Member, Forgot: b.Forgot}
		if more := len(b.Stays) - mostStays; more > 0 {
			row.Forgot = max(row.Forgot, b.Stays[more-1].Until)
			b.Stays = b.Stays[more:]
		}
		for _, s := range b.Stays {
			row.Stays = append(row.Stays, [2]uint64{s.From, s.Until})
		}
		data, err := json.Marshal(row)
		if err != nil {
			return err
		}
		rows[i] = journal.Row{Name: b.Profile.String(), Data: data, Fades: !b.Member}
	}
	if len(rows) > 0 {
		last, err := r.Table.Put(ctx, tenant, groupOf(in), was.Version, rows, empty)
		if errors.Is(err, journal.ErrConflict) {
			if err = r.refresh(ctx, tenant, e, in); err == nil {
				return room.ErrConflict
			}
		}
		if err != nil {
			return logError(err)
		}
		if last <= at { // it was given before: the table is another
			if err = r.refresh(ctx, tenant, e, in); err == nil {
				return room.ErrConflict
			}
		} else {
			err = r.catchUp(ctx, tenant, e, last)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", history.ErrUnconfirmed, err)
		}
		at = last
	}
	// Also where nothing is to change: somebody may have been told that it was not
	// known to all yet.
	ctx, cancel := context.WithTimeout(ctx, reachTime+time.Duration(len(rows))*rowTime)
	defer cancel()
	answers, silent := r.AskAll(ctx, cluster.Call{Op: cluster.CallRooms, Tenant: tenant, Place: at, Life: life})
	for _, a := range answers {
		if !a.Found {
			silent = append(silent, "one that could not read it")
		}
	}
	if len(silent) > 0 {
		return fmt.Errorf("%w: not known yet to %v", history.ErrUnconfirmed, silent)
	}
	return nil
}

// refresh learns of a room what it is now: it has changed, its own row has faded, or the
// table is another.
func (r *SharedRooms) refresh(ctx context.Context, tenant string, e *enrolment, room event.Room) error {
	if err := r.Table.Look(ctx); err != nil {
		return err
	}
	version, last, err := r.Table.Version(ctx, tenant, groupOf(room))
	if err == nil {
		err = r.catchUp(ctx, tenant, e, last)
	}
	if err == nil {
		e.mu.Lock()
		e.rooms[room] = version
		e.mu.Unlock()
	}
	return err
}

// changesOf are the changes that rows of a tenant tell of. Its history is in a life, and of
// an epoch.
func changesOf(rows []journal.Row, life, epoch string, logger *slog.Logger) iter.Seq[roomChange] {
	return func(yield func(roomChange) bool) {
		c := roomChange{life: life}
		for _, row := range rows {
			of := roomOf(row.Group)
			if row.Name == "" {
				if c.last > 0 && !yield(c) {
					return
				}
				c = roomChange{room: of, version: row.Seq, last: row.Seq, life: life}
				continue
			}
			var stored BelongingRow
			p, err := event.ParseProfile(row.Name)
			if err2 := json.Unmarshal(row.Data, &stored); err != nil || err2 != nil {
				logger.Error("broker: not a member", "place", row.Seq)
				continue
			}
			if stored.Forgot == 0 && len(stored.Stays) > mostStays {
				stored.Forgot = stored.Stays[0][0]
			}
			belongs := room.Membership{Profile: p, Member: stored.Member, Forgot: stored.Forgot}
			for _, s := range stored.Stays {
				belongs.Stays = append(belongs.Stays, history.Stay{Room: of, From: s[0], Until: s[1]})
			}
			if stored.Epoch != epoch { // the history has begun anew since
				stored.Place, belongs = 0, belongs.Restarted(of)
			}
			if c.last > 0 && (of != c.room || len(c.changed) > 0 && stored.Place != c.place) {
				if !yield(c) {
					return
				}
				c = roomChange{life: life}
			}
			c.room, c.place, c.changed, c.last = of, stored.Place, append(c.changed, belongs), row.Seq
		}
		if c.last > 0 {
			yield(c)
		}
	}
}

// whole notes a room's version once all of the change is told of: who knows it may change
// the room from there.
func (r *SharedRooms) whole(e *enrolment, life int, c roomChange) {
	e.telling.Lock()
	defer e.telling.Unlock()
	if c.version > 0 && e.life == life {
		e.mu.Lock()
		e.rooms[c.room] = c.version
		e.mu.Unlock()
	}
}

// belongs tells a tenant of a change, and of which history its places are; what is being
// told to the tenant is locked. It returns that history.
func (r *SharedRooms) belongs(tenant string, c roomChange) history.Epoch {
	for {
		life := r.journal.Epoch()
		of := r.epoch(tenant, life)
		if c.life != life {
			c.life = life
			for i, b := range c.changed {
				c.changed[i] = b.Restarted(c.room)
			}
		}
		if r.belong(tenant, of, c.room, c.changed); r.journal.Epoch() == life {
			return of
		}
	}
}

// lost has all that is known here read again. Since the table is another, the history begins
// anew as well: in that way all who come back are told that something is missing.
func (r *SharedRooms) lost(ctx context.Context, life string, known bool) error {
	if err := r.journal.Renew(ctx, "table", life); err != nil {
		return err
	}
	r.mu.Lock()
	enrolled := maps.Clone(r.enrolled)
	for _, e := range enrolled {
		e.place.Store(0) // before it can be taken for one of this table
	}
	r.life.Store(&life)
	r.mu.Unlock()
	if !known {
		return nil
	}
	r.logger.Error("the broker has lost who belongs where, or the last of it")
	r.lose(history.KeptMembers)
	r.here.leave() // until it is read again
	for tenant, e := range enrolled {
		e.telling.Lock()
		if e.life >= 0 {
			e.life++
			e.mu.Lock()
			clear(e.rooms)
			e.mu.Unlock()
			e.beside.Store(r.BesideOf(0))
			e.place.Store(0)
			r.forget(tenant)
		}
		e.telling.Unlock()
	}
	return nil
}

// goesBeside is the place of a tenant's last row as it goes with its events, if this hub
// is sure of it.
func (r *SharedRooms) goesBeside(tenant string) []string {
	if e := r.enrolment(tenant); e != nil && e.known.Load() && r.here.sure() {
		return *e.beside.Load()
	}
	return nil
}

// Behind says whether an event has to wait: for rows up to the place that its publisher
// knew of; where that is of another table, until this hub has looked; or, if none was told,
// until it is sure, or the next row is of a change after it.
func (r *SharedRooms) Behind(tenant, beside string, place uint64) bool {
	row, known := r.placeOf(beside)
	if beside == "" && r.here.sure() {
		return false
	}
	e := r.enrolment(tenant)
	switch {
	case e == nil:
		return false
	case known:
		return e.place.Load() < row
	}
	return beside != "" || place == 0 || place > e.due.Load()
}

func (r *SharedRooms) placeOf(beside string) (place uint64, known bool) {
	life, text, _ := strings.Cut(beside, " ")
	place, err := strconv.ParseUint(text, 10, 64)
	return place, err == nil && life == *r.life.Load()
}

// Await waits for what an event has to wait for.
func (r *SharedRooms) Await(tenant, beside string, place uint64) (err error) {
	ctx, cancel := context.WithTimeout(r.ctx, awaitTime)
	defer cancel()
	for r.Behind(tenant, beside, place) {
		row, known := r.placeOf(beside)
		switch e := r.enrolment(tenant); {
		case known && e != nil:
			err = r.catchUp(ctx, tenant, e, row)
		case beside != "":
			if err = r.look(ctx); err == nil {
				if _, known := r.placeOf(beside); !known {
					return nil // it is the publisher who does not know yet
				}
			}
		default:
			err = r.beSureOr(ctx, func() bool { return !r.Behind(tenant, beside, place) })
		}
		if err != nil && !r.pause(ctx) {
			return err
		}
	}
	return nil
}

// pause waits a little before another try, unless ctx or the hub ends.
func (r *SharedRooms) pause(ctx context.Context) bool {
	select {
	case <-time.After(50 * time.Millisecond):
		return true
	case <-r.ctx.Done():
	case <-ctx.Done():
	}
	return false
}

// Sure implements room.Shared.
func (r *SharedRooms) Sure(ctx context.Context) error {
	if r.here.sure() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, sureTime)
	defer cancel()
	if err := r.beSure(ctx); err != nil {
		return errors.Join(history.ErrUnconfirmed, err)
	}
	return nil
}

// beSure looks at the table until this hub is sure.
func (r *SharedRooms) beSure(ctx context.Context) error {
	for !r.here.sure() {
		if err := r.look(ctx); err != nil && !r.pause(ctx) {
			return err
		}
	}
	return nil
}

// beSureOr is beSure until enough says that it need not be: who reads the table may wait for
// the one who asks.
func (r *SharedRooms) beSureOr(ctx context.Context, enough func() bool) error {
	sure := make(chan error, 1)
	go func() { sure <- r.beSure(ctx) }()
	for {
		select {
		case err := <-sure:
			return err
		case <-time.After(progressTime):
			if enough() {
				return nil
			}
		}
	}
}

// look has the table looked at: what had been answered before, anywhere, is known here then.
func (r *SharedRooms) look(ctx context.Context) error {
	as := r.here.asks()
	err := r.Table.Look(ctx)
	if err == nil {
		r.here.knows(as)
	}
	return err
}

// watch notes whether this hub is there, and looks at the table now and then, and when it
// may have been given up.
func (r *SharedRooms) watch(ctx context.Context, connected func() bool) {
	r.look(ctx) // else soon
	r.every(tickEvery, func() { r.here.tick(connected(), r.heard()) })
	var complaint time.Time
	r.every(tickEvery, func() {
		if !connected() || r.here.sure() && r.here.age() < lookEvery {
			return
		}
		ctx, cancel := context.WithTimeout(r.ctx, awaitTime)
		defer cancel()
		if err := r.look(ctx); err != nil && time.Since(complaint) >= time.Second {
			complaint = time.Now()
			r.logger.Warn("broker: who belongs where is not known", "err", err)
		}
	})
}

func (r *SharedRooms) every(d time.Duration, do func()) {
	r.done.Go(func() {
		ticker := time.NewTicker(d)
		defer ticker.Stop()
		for {
			select {
			case <-r.ctx.Done():
				return
			case <-ticker.C:
				do()
			}
		}
	})
}

// resync: this hub may have been given up, as it was cut off.
func (r *SharedRooms) resync() {
	r.here.leave()
	ctx, cancel := context.WithTimeout(r.ctx, awaitTime)
	defer cancel()
	r.look(ctx) // else soon
}

// away is how often this hub was away, so that others may have given it up.
func (r *SharedRooms) away() int64 { return r.here.asks().left }

func (r *SharedRooms) close() {
	r.end()
	r.done.Wait()
}
