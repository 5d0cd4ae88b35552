package notices

import "time"

const (
	// standbyTime is how long it takes at most until it is known that another hub is gone.
	standbyTime = 20 * time.Second
	mostStandby = 100_000 // of a tenant
	takeAtOnce  = 1000    // of what another hub has left, before others have the lock
)

// Foremost says whether this hub, of several, tells of states and of who is gone from now on. If it does
// and did not, it tells what others may have failed to tell.
func (n *Notices) Foremost(now time.Time, ours bool) {
	n.mu.Lock()
	for tenant, list := range n.standby.All() {
		young := list
		for len(young) > 0 && now.Sub(young[0].draft.At) > standbyTime {
			young = n.unstandLocked(tenant, young)
		}
		if len(young) < len(list) {
			n.standsLocked(tenant, young)
		}
	}
	n.ours = ours
	n.mu.Unlock()
	for ours && n.takeOver() {
	}
}

// takeOver tells a piece of what another hub may have failed to tell, and says whether there may be more.
func (n *Notices) takeOver() (more bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	left := takeAtOnce
	for tenant, list := range n.standby.All() {
		for ; left > 0 && len(list) > 0; left-- {
			w := list[0]
			list = n.unstandLocked(tenant, list)
			if w.of == (subject{}) {
				n.stepLocked(tenant, w, mostStandby)
			} else {
				n.stateLocked(tenant, w)
			}
		}
		n.standsLocked(tenant, list)
		if left == 0 {
			return true
		}
	}
	return false
}

// tellsLocked says whether this hub tells of a tenant, after all that another hub has left.
func (n *Notices) tellsLocked(tenant string) bool {
	return n.ours && len(n.standby.Get(tenant)) == 0
}

// standLocked keeps what another hub tells. Where its tenant has no room its oldest goes: that was
// told, but for a fault.
func (n *Notices) standLocked(tenant string, w notice) {
	list := n.standby.Get(tenant)
	fits := func() bool { return len(list) < mostStandby && n.takeLocked(tenant, w) }
	is := fits()
	for ; !is && len(list) > 0; is = fits() {
		list = n.unstandLocked(tenant, list)
	}
	if is {
		list = append(list, w)
	}
	n.standsLocked(tenant, list)
}

// unstandLocked drops the first of a list of what another hub tells.
func (n *Notices) unstandLocked(tenant string, list []notice) []notice {
	n.cfg.State.Give(tenant, list[0].bytes)
	return rest(list, 1)
}

// standsLocked has a list be what another hub tells of a tenant.
func (n *Notices) standsLocked(tenant string, list []notice) {
	if len(list) == 0 {
		n.standby.Delete(tenant)
	} else {
		n.standby.Put(tenant, list)
	}
}
