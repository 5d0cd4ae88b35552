package main

import (
	"time"

	"realtimehub/internal/cluster"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/notices"
	"realtimehub/internal/outbox"
)

// settleTime is how long a hub may take, once it is there, to know what the others do.
const settleTime = 20 * time.Second

// teller tells services of people, connections and rooms.
type teller struct {
	notices *notices.Notices
	rooms   *notices.Rooms   // nil: nobody asks
	cluster *cluster.Cluster // set once it is made
}

// newTeller makes the teller of a hub's presence, before anybody connects; nil if services are
// told of nothing that it is for.
func newTeller(d delivery.Parts, p *Presence, cfg HubConfig, reporting Reporting) *teller {
	n := notices.New(notices.Config{Types: reporting.Types, Box: reporting.Box, State: cfg.Quotas.State, Logger: cfg.Logger})
	if n == nil {
		return nil
	}
	t := &teller{notices: n}
	if n.TellsConnections() {
		d.Streams.Report(t)
	}
	if n.TellsRooms() {
		t.rooms = notices.NewRooms(notices.RoomsConfig{Members: d.Members, Present: p.present, Tell: n.Occupancy, State: cfg.Quotas.State})
		d.Tenants.Moves(t.rooms.Moved)
	}
	if t.rooms != nil || n.Tells(outbox.TypePresence) {
		p.teller = t
	}
	return t
}

// followsAll says that it has to be known who is connected to which hub.
func (t *teller) followsAll() bool {
	return t != nil && (t.rooms != nil || t.notices.Tells(outbox.TypePresence))
}

// tell tells of what a tick has found.
func (t *teller) tell(all map[string]*news, now time.Time) {
	t.notices.Turn(now, t.cluster.Foremost(now))
	for tenant, n := range all {
		for _, c := range n.changes {
			t.notices.Presence(tenant, c.Profile, string(c.Status), now)
		}
	}
	if t.rooms == nil {
		return
	}
	for tenant, n := range all {
		var moved []event.Profile
		for _, c := range n.changes {
			if (c.Status == Offline) != (c.Previous == Offline) {
				moved = append(moved, c.Profile)
			}
		}
		t.rooms.People(tenant, moved, false)
		t.rooms.People(tenant, n.known, true)
	}
	t.rooms.Look(now)
}

// Opened implements delivery.Reporter.
func (t *teller) Opened(c *delivery.Connection) {
	t.notices.Opened(c.Tenant, notices.Connection{ID: c.ID.String(), Profile: c.Profile, Metadata: c.Metadata})
}

// Closed implements delivery.Reporter.
func (t *teller) Closed(c *delivery.Connection, reason delivery.CloseReason) {
	t.notices.Closed(c.Tenant, notices.Connection{ID: c.ID.String(), Profile: c.Profile, Metadata: c.Metadata, Reason: string(reason)})
}
