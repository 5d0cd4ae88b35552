package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync"
	"time"

	"realtimehub/internal/journal"
)

// brokerRooms is the SharedRooms of a Broker: a table with a row a belonging. A change
// is known to all hubs before it is answered, since each is asked to read up to it.
type brokerRooms struct {
	journal *journal.Journal
	table   *journal.Table
	epoch   func(tenant string) string // of places in its history
	askAll  func(ctx context.Context, c Call) (answers []Answer, silent []string)
	belong  func(tenant string, room Room, changed []Belonging)
	logger  *slog.Logger

	mu       sync.Mutex
	enrolled map[string]*enrolment // guarded by mu: tenants whose rooms are known
}

// enrolment is what is known of a tenant's rooms.
type enrolment struct {
	mu sync.Mutex
	// Guarded by mu.
	place uint64          // in the table
	rooms map[Room]uint64 // a room's own place in the table

	refs int // guarded by brokerRooms.mu
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

// reachTime is how long the other hubs have to read a change, and rowTime more for
// each of its rows.
const (
	reachTime = time.Second
	rowTime   = 200 * time.Microsecond
)

// Follow implements SharedRooms.
func (r *brokerRooms) Follow(belong func(string, Room, []Belonging)) { r.belong = belong }

// Attach implements SharedRooms.
func (r *brokerRooms) Attach(ctx context.Context, tenant string) error {
	r.mu.Lock()
	e := r.enrolled[tenant]
	if e == nil {
		e = &enrolment{rooms: map[Room]uint64{}}
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
	return nil
}

// Detach implements SharedRooms.
func (r *brokerRooms) Detach(tenant string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.enrolled[tenant]; e != nil {
		if e.refs--; e.refs == 0 {
			delete(r.enrolled, tenant)
		}
	}
}

// Now implements SharedRooms.
func (r *brokerRooms) Now(ctx context.Context, tenant string, room Room) (place, version uint64, err error) {
	place, err = r.journal.Last(ctx, tenant)
	if err != nil {
		return 0, 0, logError(err)
	}
	if e := r.enrolment(tenant); e != nil {
		e.mu.Lock()
		defer e.mu.Unlock()
		version = e.rooms[room]
	}
	return place, version, nil
}

func (r *brokerRooms) enrolment(tenant string) *enrolment {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.enrolled[tenant]
}

// Change implements SharedRooms.
func (r *brokerRooms) Change(ctx context.Context, tenant string, room Room, place, version uint64, changed []Belonging) error {
	e := r.enrolment(tenant)
	if e == nil {
		return ErrConflict
	}
	epoch := r.epoch(tenant)
	rows := make([]journal.Row, len(changed))
	for i, b := range changed {
		row := belongingRow{Epoch: epoch, Place: place, Member: b.Member, Forgot: b.Forgot}
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
		last, err := r.table.Put(ctx, tenant, groupOf(room), version, rows)
		if errors.Is(err, journal.ErrConflict) {
			if last, err = r.table.Last(ctx, tenant); err == nil {
				err = r.catchUp(ctx, tenant, e, last)
			}
			if err == nil {
				return ErrConflict
			}
		}
		if err != nil {
			return logError(err)
		}
		if err := r.catchUp(ctx, tenant, e, last); err != nil {
			return fmt.Errorf("%w: %w", ErrUnconfirmed, err)
		}
	}
	// Also where nothing is to change: somebody may have been told that it was not
	// known to all yet.
	e.mu.Lock()
	last := e.place
	e.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, reachTime+time.Duration(len(rows))*rowTime)
	defer cancel()
	answers, silent := r.askAll(ctx, Call{Op: CallRooms, Tenant: tenant, Place: last})
	for _, a := range answers {
		if !a.Found {
			silent = append(silent, "one that could not read it")
		}
	}
	if len(silent) > 0 {
		return fmt.Errorf("%w: not known yet to %v", ErrUnconfirmed, silent)
	}
	return nil
}

func groupOf(room Room) string { return string(room.Kind) + ":" + room.ID }

// catchUp reads a tenant's rows up to a place, and tells what changed.
func (r *brokerRooms) catchUp(ctx context.Context, tenant string, e *enrolment, place uint64) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.place >= place {
		return nil
	}
	after, err := r.table.Read(ctx, tenant, e.place, place, func(rows []journal.Row) {
		var latest uint64
		var room Room
		var changed []Belonging
		flush := func() {
			if len(changed) == 0 {
				return
			}
			// Events that came before the change are delivered before it.
			ctx, cancel := context.WithTimeout(ctx, reachTime)
			r.journal.Reach(ctx, tenant, latest)
			cancel()
			r.belong(tenant, room, changed)
			changed, latest = nil, 0
		}
		for _, row := range rows {
			of := Room{}
			if kind, id, ok := strings.Cut(row.Group, ":"); ok {
				of = Room{TargetKind(kind), id}
			}
			if of != room {
				flush()
				room = of
			}
			if row.Name == "" {
				e.rooms[of] = row.Seq
				continue
			}
			var stored belongingRow
			p, err := ParseProfile(row.Name)
			if err2 := json.Unmarshal(row.Data, &stored); err != nil || err2 != nil {
				r.logger.Error("broker: not a member", "tenant", tenant, "place", row.Seq)
				continue
			}
			belongs := Belonging{Profile: p, Member: stored.Member}
			if stored.Epoch != r.epoch(tenant) { // the history has begun anew since
				stored.Place, stored.Stays, stored.Forgot = 0, nil, 0
				if stored.Member {
					stored.Stays = [][2]uint64{{0, math.MaxUint64}}
				}
			}
			if stored.Forgot == 0 && len(stored.Stays) > mostStays {
				stored.Forgot = stored.Stays[0][0]
			}
			belongs.Forgot = stored.Forgot
			for _, s := range stored.Stays {
				belongs.Stays = append(belongs.Stays, Stay{of, s[0], s[1]})
			}
			latest = max(latest, stored.Place)
			changed = append(changed, belongs)
		}
		flush()
	})
	if err == nil {
		e.place = after
	}
	return err
}

// resync reads what we may not have been asked to, while we were cut off.
func (r *brokerRooms) resync() {
	r.mu.Lock()
	tenants := make(map[string]*enrolment, len(r.enrolled))
	for tenant, e := range r.enrolled {
		tenants[tenant] = e
	}
	r.mu.Unlock()
	for tenant, e := range tenants {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		last, err := r.table.Last(ctx, tenant)
		if err == nil {
			err = r.catchUp(ctx, tenant, e, last)
		}
		cancel()
		if err != nil {
			r.logger.Warn("broker: membership not read again", "tenant", tenant, "err", err)
			return // the connection has gone once more
		}
	}
}

// reached reads a tenant's rows up to a place, if we need them, and says that we
// have.
func (r *brokerRooms) reached(tenant string, place uint64) bool {
	e := r.enrolment(tenant)
	if e == nil {
		return true
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*reachTime) // who asks may have given up before
	defer cancel()
	return r.catchUp(ctx, tenant, e, place) == nil
}
