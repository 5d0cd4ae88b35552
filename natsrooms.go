package main

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

	"realtimehub/internal/cluster"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/journal"
	"realtimehub/internal/room"
)

// brokerRooms is the room.Shared of a Broker: a table with a row a belonging. A change
// is known to all hubs before it is answered, since each is asked to read up to it.
//
// A hub that does not answer for long is given up, and not asked. So each event goes with
// the place in the table that its publisher knows, which is read up to before the event is
// delivered; and a hub that may have been given up looks at the table before it delivers
// or resumes anything else.
type brokerRooms struct {
	journal *journal.Journal
	table   *journal.Table
	epoch   func(tenant, life string) history.Epoch // of places in its history
	askAll  func(ctx context.Context, c cluster.Call) (answers []cluster.Answer, silent []string)
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

	refs int // guarded by brokerRooms.mu
}

// reading is a part of the table that is being read, for all who wait for it.
type reading struct {
	done chan struct{}
	err  error // before done is closed
}

func newBrokerRooms(logger *slog.Logger) *brokerRooms {
	r := &brokerRooms{enrolled: map[string]*enrolment{}, logger: logger}
	r.ctx, r.end = context.WithCancel(context.Background())
	return r
}

// belongingRow is a Belonging as it is stored.
type belongingRow struct {
	Epoch  string      `json:"epoch"` // of the places, in the tenant's history
	Place  uint64      `json:"place"` // of the change
	Member bool        `json:"member"`
	Stays  [][2]uint64 `json:"stays"`
	Forgot uint64      `json:"forgot,omitempty"` // stays that ended up to this place may be lacking
}

// mostStays is how many times in a room are kept of a profile. A version before kept one
// more, and did not say what it had cut.
const mostStays = 31

// Times of membership.
const (
	reachTime = time.Second            // that other hubs have to read a change
	rowTime   = 200 * time.Microsecond // more, for each of its rows
	sureTime  = 2 * time.Second        // that a request waits until this hub is sure
	awaitTime = 5 * time.Second        // and an event
	readTime  = 2 * time.Minute        // that all of a tenant may take to be read
	lookEvery = 2 * time.Second

	progressTime = 5 * time.Millisecond // how often who waits for a part looks whether it is read
)

// besideOf is how a tenant's last row goes with its events.
func (r *brokerRooms) besideOf(row uint64) *[]string {
	return &[]string{*r.life.Load() + " " + strconv.FormatUint(row, 10)}
}

// Follow implements room.Shared.
func (r *brokerRooms) Follow(belong func(string, history.Epoch, event.Room, []room.Membership), forget func(string)) {
	r.belong, r.forget = belong, forget
}

// Attach implements room.Shared.
func (r *brokerRooms) Attach(ctx context.Context, tenant string) error {
	r.mu.Lock()
	e := r.enrolled[tenant]
	if e == nil {
		e = &enrolment{rooms: map[event.Room]uint64{}}
		e.beside.Store(r.besideOf(0))
		r.enrolled[tenant] = e
	}
	e.refs++
	r.mu.Unlock()
	// A change that was answered before this is what the leader knows; one that comes
	// later asks us.
	last, err := r.table.Last(ctx, tenant)
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
func (r *brokerRooms) Detach(tenant string) {
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
func (r *brokerRooms) Now(ctx context.Context, tenant string, in event.Room) (now room.State, err error) {
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

func (r *brokerRooms) enrolment(tenant string) *enrolment {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.enrolled[tenant]
}

// Change implements room.Shared.
func (r *brokerRooms) Change(ctx context.Context, tenant string, in event.Room, was room.State, changed []room.Membership, empty bool) error {
	e := r.enrolment(tenant)
	if e == nil || r.epoch(tenant, r.journal.Epoch()) != was.Now.Epoch {
		return room.ErrConflict
	}
	life, at := *r.life.Load(), e.place.Load()
	rows := make([]journal.Row, len(changed))
	for i, b := range changed {
		row := belongingRow{Epoch: was.Now.Epoch.Text(), Place: was.Now.Seq, Member: b.Member, Forgot: b.Forgot}
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
		last, err := r.table.Put(ctx, tenant, groupOf(in), was.Version, rows, empty)
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
	answers, silent := r.askAll(ctx, cluster.Call{Op: cluster.CallRooms, Tenant: tenant, Place: at, Life: life})
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
func (r *brokerRooms) refresh(ctx context.Context, tenant string, e *enrolment, room event.Room) error {
	if err := r.table.Look(ctx); err != nil {
		return err
	}
	version, last, err := r.table.Version(ctx, tenant, groupOf(room))
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

func groupOf(room event.Room) string { return string(room.Kind) + ":" + room.ID }

func roomOf(group string) event.Room {
	kind, id, ok := strings.Cut(group, ":")
	if !ok {
		return event.Room{}
	}
	return event.Room{Kind: event.TargetKind(kind), ID: id}
}

// catchUp has a tenant's rows read up to a place, and the tenant told what changed. What
// was read is kept, whoever waited for it.
func (r *brokerRooms) catchUp(ctx context.Context, tenant string, e *enrolment, place uint64) error {
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

func (r *brokerRooms) read(tenant string, e *enrolment, place uint64) error {
	ctx, cancel := context.WithTimeout(r.ctx, readTime)
	defer cancel()
	e.telling.Lock()
	life := e.life
	e.telling.Unlock()
	patient := true
	var begun roomChange // of which more may follow
	if err := r.table.Read(ctx, tenant, e.place.Load(), place, func(rows []journal.Row) error {
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

// roomChange is rows of one room that were changed together, or a part of them.
type roomChange struct {
	room    event.Room
	version uint64 // the room's own place; 0: it is not among them
	life    string // of the history
	place   uint64 // in it, before which they hold not yet
	changed []room.Membership
	last    uint64 // row
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
			var stored belongingRow
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

// tell tells of a change, and that it is known.
func (r *brokerRooms) tell(tenant string, e *enrolment, life int, c roomChange) error {
	e.telling.Lock()
	defer e.telling.Unlock()
	if e.life != life || life < 0 {
		return errOver
	}
	r.belongs(tenant, c)
	e.beside.Store(r.besideOf(c.last))
	e.place.Store(c.last)
	return nil
}

// whole notes a room's version once all of the change is told of: who knows it may change
// the room from there.
func (r *brokerRooms) whole(e *enrolment, life int, c roomChange) {
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
func (r *brokerRooms) belongs(tenant string, c roomChange) history.Epoch {
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

// changed reads what has changed of tenants that are here.
func (r *brokerRooms) changed(ctx context.Context, tenants []string, place uint64) error {
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

// lost has all that is known here read again. Since the table is another, the history begins
// anew as well: in that way all who come back are told that something is missing.
func (r *brokerRooms) lost(ctx context.Context, life string, known bool) error {
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
			e.beside.Store(r.besideOf(0))
			e.place.Store(0)
			r.forget(tenant)
		}
		e.telling.Unlock()
	}
	return nil
}

// reached reads a tenant's rows up to a place that a call names, if we need them, and says
// that we have.
func (r *brokerRooms) reached(c cluster.Call) bool {
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

// goesBeside is the place of a tenant's last row as it goes with its events, if this hub
// is sure of it.
func (r *brokerRooms) goesBeside(tenant string) []string {
	if e := r.enrolment(tenant); e != nil && e.known.Load() && r.here.sure() {
		return *e.beside.Load()
	}
	return nil
}

// behind says whether an event has to wait: for rows up to the place that its publisher
// knew of; where that is of another table, until this hub has looked; or, if none was told,
// until it is sure, or the next row is of a change after it.
func (r *brokerRooms) behind(tenant, beside string, place uint64) bool {
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

func (r *brokerRooms) placeOf(beside string) (place uint64, known bool) {
	life, text, _ := strings.Cut(beside, " ")
	place, err := strconv.ParseUint(text, 10, 64)
	return place, err == nil && life == *r.life.Load()
}

// await waits for what an event has to wait for.
func (r *brokerRooms) await(tenant, beside string, place uint64) (err error) {
	ctx, cancel := context.WithTimeout(r.ctx, awaitTime)
	defer cancel()
	for r.behind(tenant, beside, place) {
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
			err = r.beSureOr(ctx, func() bool { return !r.behind(tenant, beside, place) })
		}
		if err != nil && !r.pause(ctx) {
			return err
		}
	}
	return nil
}

// pause waits a little before another try, unless ctx or the hub ends.
func (r *brokerRooms) pause(ctx context.Context) bool {
	select {
	case <-time.After(50 * time.Millisecond):
		return true
	case <-r.ctx.Done():
	case <-ctx.Done():
	}
	return false
}

// Sure implements room.Shared.
func (r *brokerRooms) Sure(ctx context.Context) error {
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
func (r *brokerRooms) beSure(ctx context.Context) error {
	for !r.here.sure() {
		if err := r.look(ctx); err != nil && !r.pause(ctx) {
			return err
		}
	}
	return nil
}

// beSureOr is beSure until enough says that it need not be: who reads the table may wait for
// the one who asks.
func (r *brokerRooms) beSureOr(ctx context.Context, enough func() bool) error {
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
func (r *brokerRooms) look(ctx context.Context) error {
	as := r.here.asks()
	err := r.table.Look(ctx)
	if err == nil {
		r.here.knows(as)
	}
	return err
}

// watch notes whether this hub is there, and looks at the table now and then, and when it
// may have been given up.
func (r *brokerRooms) watch(ctx context.Context, connected func() bool) {
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

func (r *brokerRooms) every(d time.Duration, do func()) {
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
func (r *brokerRooms) resync() {
	r.here.leave()
	ctx, cancel := context.WithTimeout(r.ctx, awaitTime)
	defer cancel()
	r.look(ctx) // else soon
}

// away is how often this hub was away, so that others may have given it up.
func (r *brokerRooms) away() int64 { return r.here.asks().left }

func (r *brokerRooms) close() {
	r.end()
	r.done.Wait()
}
