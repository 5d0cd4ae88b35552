package notices

import "time"

// standby is a notice that another hub tells, unless it is gone.
type standby struct {
	tenant string
	notice notice
	at     time.Time
}

const (
	// standbyTime is how long it takes at most until it is known that another hub is gone.
	standbyTime = 20 * time.Second
	mostStandby = 100_000
)

// Turn says whether this hub, of several, tells of states and of who is gone from now on. If it does and did not,
// it tells what others may have failed to tell.
func (n *Notices) Turn(now time.Time, ours bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for len(n.standby) > 0 && now.Sub(n.standby[0].at) > standbyTime {
		n.unstandLocked()
	}
	if ours && !n.ours {
		for len(n.standby) > 0 {
			if s := n.unstandLocked(); s.notice.of == (subject{}) {
				n.stepLocked(s.tenant, s.notice, mostStandby)
			} else {
				n.stateLocked(s.tenant, s.notice)
			}
		}
	}
	n.ours = ours
}

// standLocked keeps what another hub tells. Where there is no room the oldest goes: it was told,
// but for a fault.
func (n *Notices) standLocked(tenant string, w notice) {
	for len(n.standby) >= mostStandby || !n.cfg.State.Take(tenant, w.bytes) {
		if len(n.standby) == 0 {
			return
		}
		n.unstandLocked()
	}
	n.standby = append(n.standby, standby{tenant, w, time.Now()})
}

// unstandLocked takes out the oldest.
func (n *Notices) unstandLocked() standby {
	s := n.standby[0]
	n.standby[0] = standby{}
	n.standby = rest(n.standby, 1)
	n.cfg.State.Give(s.tenant, s.notice.bytes)
	return s
}
