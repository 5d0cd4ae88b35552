package notices

import (
	"time"

	"realtimehub/internal/due"
)

const (
	// standbyTime is how long it takes at most until it is known that another hub is gone.
	standbyTime = 20 * time.Second
	mostStandby = 100_000 // of a tenant
	takeAtOnce  = 1000    // of what another hub has left, or has told, before others have the lock
)

// standby is what another hub tells of a tenant unless it is gone.
type standby struct {
	tenant string
	list   []notice // the oldest first
	due    due.Item // when the oldest is known to have been told
}

// Due implements due.Owner.
func (s *standby) Due() *due.Item { return &s.due }

// Foremost says whether this hub, of several, tells of states and of who is gone from now on. If it does
// and did not, it tells what others may have failed to tell.
func (n *Notices) Foremost(now time.Time, ours bool) {
	for n.forgetTold(now) {
	}
	n.mu.Lock()
	n.ours = ours
	n.mu.Unlock()
	for ours && n.takeOver() {
	}
}

// forgetTold drops a piece of what others have told by now, and says whether there may be more.
func (n *Notices) forgetTold(now time.Time) (more bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for range takeAtOnce {
		s, any := n.told.Next(now)
		if !any {
			return false
		}
		n.unstandLocked(s)
	}
	return true
}

// takeOver tells a piece of what another hub may have failed to tell, and says whether there may be more.
func (n *Notices) takeOver() (more bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for range takeAtOnce {
		if n.told.Len() == 0 {
			return false
		}
		s, _ := n.told.First()
		w := n.unstandLocked(s)
		if w.of == (subject{}) {
			n.stepLocked(s.tenant, w, mostStandby)
		} else {
			n.stateLocked(s.tenant, w)
		}
	}
	return true
}

// tellsLocked says whether this hub tells of a tenant, after all that another hub has left.
func (n *Notices) tellsLocked(tenant string) bool {
	return n.ours && n.standby.Get(tenant) == nil
}

// standLocked keeps what another hub tells. Where its tenant has no room its oldest goes: that was
// told, but for a fault, or is dropped if this hub is to tell it.
func (n *Notices) standLocked(tenant string, w notice) {
	s := n.standby.Get(tenant)
	if s == nil {
		s = &standby{tenant: tenant}
	}
	fits := func() bool { return len(s.list) < mostStandby && n.takeLocked(tenant, w) }
	is := fits()
	for ; !is && len(s.list) > 0; is = fits() {
		n.unstandLocked(s)
		if n.ours {
			n.dropLocked(tenant)
		}
	}
	if !is {
		return
	}
	s.list = append(s.list, w)
	if len(s.list) == 1 {
		n.standby.Put(tenant, s)
		n.told.Set(s, w.draft.At.Add(standbyTime))
	}
}

// unstandLocked takes away the oldest of what another hub tells.
func (n *Notices) unstandLocked(s *standby) (oldest notice) {
	oldest = s.list[0]
	n.cfg.State.Give(s.tenant, oldest.bytes)
	s.list = rest(s.list, 1)
	if len(s.list) == 0 {
		n.standby.Delete(s.tenant)
		n.told.Set(s, time.Time{})
	} else {
		n.told.Set(s, s.list[0].draft.At.Add(standbyTime))
	}
	return oldest
}
