package broker

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"realtimehub/internal/history"
)

// beside is the text that goes with a tenant's events: the place of the last row that this hub
// knows of the tenant, if it is sure that there is no later one.
func (s *sharedRooms) beside(tenant string) []string {
	if e := s.enrolment(tenant); e != nil && e.loaded.Load() && s.here.sure() {
		return *e.beside.Load()
	}
	return nil
}

// behind says whether an event has to wait. If its publisher named a place in this table, the
// event waits until the rows up to there are read. If it named one in another table, the event
// waits until this hub has looked at the table. If it named none, the event waits until this
// hub is sure, or has read a change that comes after the event.
func (s *sharedRooms) behind(tenant, beside string, place uint64) bool {
	row, known := s.placeOf(beside)
	if beside == "" && s.here.sure() {
		return false
	}
	e := s.enrolment(tenant)
	switch {
	case e == nil:
		return false
	case known:
		return e.place.Load() < row
	}
	return beside != "" || place == 0 || place > e.due.Load()
}

func (s *sharedRooms) placeOf(beside string) (place uint64, known bool) {
	life, text, _ := strings.Cut(beside, " ")
	place, err := strconv.ParseUint(text, 10, 64)
	return place, err == nil && life == *s.life.Load()
}

// await waits for what an event has to wait for.
func (s *sharedRooms) await(tenant, beside string, place uint64) (err error) {
	ctx, cancel := context.WithTimeout(s.ctx, awaitTime)
	defer cancel()
	for s.behind(tenant, beside, place) {
		row, known := s.placeOf(beside)
		switch e := s.enrolment(tenant); {
		case known && e != nil:
			err = s.catchUp(ctx, tenant, e, row)
		case beside != "":
			if err = s.look(ctx); err == nil {
				if _, known := s.placeOf(beside); !known {
					return nil // the publisher did not know yet that the table is another
				}
			}
		default:
			err = s.beSureOr(ctx, func() bool { return !s.behind(tenant, beside, place) })
		}
		if err != nil && !s.pause(ctx) {
			return err
		}
	}
	return nil
}

// pause waits a little before another try, unless ctx or the hub ends.
func (s *sharedRooms) pause(ctx context.Context) bool {
	select {
	case <-time.After(50 * time.Millisecond):
		return true
	case <-s.ctx.Done():
	case <-ctx.Done():
	}
	return false
}

// Sure implements room.Shared.
func (s *sharedRooms) Sure(ctx context.Context) error {
	if s.here.sure() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, sureTime)
	defer cancel()
	if err := s.beSure(ctx); err != nil {
		return errors.Join(history.ErrUnconfirmed, err)
	}
	return nil
}

// beSure looks at the table until this hub is sure.
func (s *sharedRooms) beSure(ctx context.Context) error {
	for !s.here.sure() {
		if err := s.look(ctx); err != nil && !s.pause(ctx) {
			return err
		}
	}
	return nil
}

// beSureOr is beSure, but returns as soon as enough says that it is not needed. Otherwise a
// reader of the table, and this call, which may hold it up, could wait for each other.
func (s *sharedRooms) beSureOr(ctx context.Context, enough func() bool) error {
	sure := make(chan error, 1)
	go func() { sure <- s.beSure(ctx) }()
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

// look reads the table up to its end. This hub then knows every change that any hub had
// confirmed before.
func (s *sharedRooms) look(ctx context.Context) error {
	as := s.here.asks()
	err := s.table.Look(ctx)
	if err == nil {
		s.here.knows(as)
	}
	return err
}

// watch notes whether this hub is there, and looks at the table now and then, and when it
// may have been given up.
func (s *sharedRooms) watch(ctx context.Context, connected, heard func() bool) {
	s.look(ctx) // else soon
	s.every(tickEvery, func() { s.here.tick(connected(), heard()) })
	var complaint time.Time
	s.every(tickEvery, func() {
		if !connected() || s.here.sure() && s.here.age() < lookEvery {
			return
		}
		ctx, cancel := context.WithTimeout(s.ctx, awaitTime)
		defer cancel()
		err := s.look(ctx)
		switch {
		case err == nil:
			complaint = time.Time{}
		case time.Since(complaint) >= 10*time.Second:
			complaint = time.Now()
			s.logger.Warn("store: the membership table could not be read", "err", err)
		}
	})
}

func (s *sharedRooms) every(d time.Duration, do func()) {
	s.done.Go(func() {
		ticker := time.NewTicker(d)
		defer ticker.Stop()
		for {
			select {
			case <-s.ctx.Done():
				return
			case <-ticker.C:
				do()
			}
		}
	})
}

// resync: this hub may have been given up, as it was cut off.
func (s *sharedRooms) resync() {
	s.here.leave()
	ctx, cancel := context.WithTimeout(s.ctx, awaitTime)
	defer cancel()
	s.look(ctx) // else soon
}

// away is how often this hub was away, so that others may have given it up.
func (s *sharedRooms) away() int64 { return s.here.asks().left }
