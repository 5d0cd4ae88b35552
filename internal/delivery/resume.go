package delivery

import (
	"context"
	"errors"

	"realtimehub/internal/history"
)

// locate is where a subscription's cursor stands for its profile, and what it missed for
// good.
func (s *Streams) locate(ctx context.Context, sub Subscription) (from history.Cursor, missed, err error) {
	t, err := s.tenants.openLocked(ctx, sub.Tenant)
	if err != nil {
		return history.Cursor{}, nil, err
	}
	r := s.members.readerLocked(t, sub.Profile)
	t.mu.Unlock()
	from, err = s.log.Find(ctx, sub.Tenant, sub.Cursor, r)
	if errors.Is(err, history.ErrExpired) || errors.Is(err, history.ErrUnknownCursor) {
		return from, err, nil
	}
	return from, nil, err
}

// resumeLocked decides how c's stream begins, after which place, and what it missed for good.
// from is the place of c's cursor, or zero if c has none.
func (t *tenant) resumeLocked(c *Connection, from history.Cursor, missed error) (Resume, history.Cursor, error) {
	none := history.Epoch{}
	if from.Epoch != none && from.Epoch != t.head.Epoch { // the history has begun anew
		missed, from = history.ErrUnknownCursor, t.head
	}
	if missed == nil && from.Epoch != none && from.Seq < t.rooms.Forgotten(c.Profile) {
		missed = history.ErrExpired
	}
	switch {
	case missed != nil:
		return ResumePartial, from, missed
	case from.Epoch == none:
		return ResumeFresh, t.head, nil
	}
	return ResumeComplete, from, nil
}
