package main

import (
	"context"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/allowance"
	"realtimehub/internal/cluster"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/fair"
	"realtimehub/internal/notices"
	"realtimehub/internal/outbox"
	"realtimehub/internal/presence"
	"realtimehub/internal/settings"
	"realtimehub/internal/typing"
)

// thawTime is to hear what has happened, once others are heard again.
const thawTime = time.Second

// PresenceConfig is what Presence needs to know; durations of 0 lift the limit.
type PresenceConfig struct {
	IdleTimeout time.Duration
	Tick        time.Duration
	Grace       time.Duration
	TypingTTL   time.Duration
	Audience    settings.Audience
	Burst       int           // changes of one tenant in one tick past which a digest goes out
	Settle      time.Duration // how long this hub may take to know what others do
}

// Presence ticks. Each tick moves people from online to away and offline as time goes by, and
// announces what has changed since the last one: to the streams of their tenant, and to services.
type Presence struct {
	// Static.
	cfg       PresenceConfig
	people    *presence.People
	typists   *typing.Typists
	tenants   *delivery.Tenants
	members   *delivery.Members
	cluster   *cluster.Cluster
	peers     cluster.Peers // nil: the hub is alone
	teller    teller
	announcer *announcer

	// Owned by tick.
	thaw   time.Time // until then nothing is announced
	ticked time.Time
}

// newPeople makes the people of a hub, and those of them who type. peers are other hubs, nil for
// a hub that is alone.
func newPeople(d delivery.Parts, pools *allowance.Pools, cfg PresenceConfig, peers cluster.Peers) (*presence.People, *typing.Typists) {
	var typists *typing.Typists // who goes offline stops typing, and who types is active
	people := presence.New(presence.Config{
		IdleTimeout: cfg.IdleTimeout, Grace: cfg.Grace, Pools: pools,
		Offline: func(who event.TenantProfile) { typists.Left(who) },
	})
	types := typing.Config{TTL: cfg.TypingTTL, Pools: pools, Spoke: people.Spoke, Members: d.Members, Teller: d.Dispatcher}
	if peers != nil {
		types.Cast = func(who event.TenantProfile, conversation string, started bool) {
			peers.Cast(who.Tenant, cluster.Typing{Profile: who.Profile, Conversation: conversation, Started: started})
		}
	}
	typists = typing.New(types)
	return people, typists
}

// Run ticks until ctx ends.
func (p *Presence) Run(ctx context.Context) {
	ticker := time.NewTicker(p.cfg.Tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			p.tick(time.Now())
		}
	}
}

// tick moves those whose time has come, and announces what has changed since the last tick.
func (p *Presence) tick(now time.Time) {
	if !p.knows(now) {
		return
	}
	told := p.teller.followsAll()
	all := p.people.Advance(now, told)
	if told {
		p.teller.tell(all, now, p.cluster.Foremost(now))
	}
	for tenant, n := range all {
		if p.cfg.Audience != settings.AudienceNone {
			p.announcer.of.Do(tenant, n) // the tenant may be busy
		}
	}
	p.typists.Tick(now)
}

// knows says whether what this hub has heard of others is all that there is to know. While it is
// not, who seems to have left may be with another hub, and nobody is announced.
func (p *Presence) knows(now time.Time) bool {
	slept := !p.ticked.IsZero() && now.Sub(p.ticked) > p.cfg.Tick+thawTime
	p.ticked = now
	if p.peers != nil && (slept || !p.peers.Hears()) {
		p.thaw = now.Add(thawTime)
	}
	return !now.Before(p.thaw) && p.tenants.SureNow() // else it is known soon whom to tell
}

// announcer tells streams of what has changed, each tenant's beside the others'. What changes while
// a tenant is busy is told as one tick's.
type announcer struct {
	cfg PresenceConfig
	// notify tells a tenant's streams.
	notify func(tenant string, notices []delivery.Notice, digest *event.Event, shared bool)
	of     *fair.Series[string, *presence.News] // by tenant
}

func newAnnouncer(cfg PresenceConfig, d *delivery.Dispatcher) *announcer {
	a := &announcer{cfg: cfg, notify: d.Notify}
	a.of = fair.NewSeries(a.announce, (*presence.News).Then)
	return a
}

// announce tells a tenant's streams of changes, if there are any: each change by itself, and in a
// digest where they are many.
func (a *announcer) announce(tenant string, n *presence.News) {
	if len(n.Changes) == 0 {
		return
	}
	now, shared := time.Now(), a.cfg.Audience == settings.AudienceShared
	changed := make([]delivery.Notice, len(n.Changes))
	for i, c := range n.Changes {
		changed[i] = delivery.Notice{About: c.Profile, Event: event.NewEphemeral(tenant, "presence."+string(c.Status), event.ToTenant(), now, c)}
	}
	var digest *event.Event
	if a.cfg.Burst > 0 && len(n.Changes) > a.cfg.Burst {
		counts := map[string]int{"changed": len(n.Changes)}
		if !shared { // how many others there are is not everybody's business
			counts["online"], counts["away"] = n.Online, n.Away
		}
		digest = event.NewEphemeral(tenant, event.TypePresenceDigest, event.ToTenant(), now, counts)
	}
	a.notify(tenant, changed, digest, shared)
}

// Visible is what viewer may see of profiles, in the order asked: what the audience hides looks
// offline.
func (p *Presence) Visible(tenant string, viewer event.Profile, profiles []event.Profile) []presence.Person {
	list := p.people.Of(tenant, profiles)
	if p.cfg.Audience == settings.AudienceTenant {
		return list
	}
	share := make([]bool, len(profiles))
	if p.cfg.Audience == settings.AudienceShared {
		share = p.members.Share(tenant, viewer, profiles)
	}
	for i, ref := range profiles {
		if !share[i] && ref != viewer {
			list[i] = presence.Person{Profile: ref, Status: presence.Offline}
		}
	}
	return list
}

// teller tells services of people, and which rooms are occupied by them.
type teller struct {
	notices *notices.Notices // nil: services are told of nothing that they are for
	rooms   *notices.Rooms   // nil: nobody asks
}

// newTeller makes the teller of a hub, before anybody connects.
func newTeller(d delivery.Parts, people *presence.People, pools *allowance.Pools, n *notices.Notices) teller {
	if !n.TellsRooms() {
		return teller{notices: n}
	}
	rooms := notices.NewRooms(notices.RoomsConfig{Members: d.Members, Present: people.Present, Tell: n.Occupancy, State: pools.State})
	d.Tenants.Moves(rooms.Moved)
	return teller{notices: n, rooms: rooms}
}

// followsAll says that it has to be known who is connected to which hub.
func (t teller) followsAll() bool {
	return t.rooms != nil || t.notices.Tells(outbox.TypePresence) || t.notices.Tells(outbox.TypeDisconnected)
}

// tell tells of what a tick has found. Of several hubs the foremost puts it into the outbox.
func (t teller) tell(all map[string]*presence.News, now time.Time, foremost bool) {
	t.notices.Foremost(now, foremost)
	for tenant, n := range all {
		for _, c := range n.Changes {
			t.notices.Presence(tenant, c.Profile, string(c.Status), now)
		}
	}
	if t.rooms == nil {
		return
	}
	for tenant, n := range all {
		var moved []event.Profile
		for _, c := range n.Changes {
			if (c.Status == presence.Offline) != (c.Previous == presence.Offline) {
				moved = append(moved, c.Profile)
			}
		}
		t.rooms.People(tenant, moved, false)
		t.rooms.People(tenant, n.Known, true)
	}
	t.rooms.Look(now)
}

// reporter tells services of connections.
type reporter struct{ notices *notices.Notices }

// newReporter makes it; nil if nobody asks.
func newReporter(n *notices.Notices) delivery.Reporter {
	if !n.TellsConnections() {
		return nil
	}
	return reporter{notices: n}
}

// Opened implements delivery.Reporter.
func (r reporter) Opened(c *delivery.Connection) {
	r.notices.Opened(c.Tenant, notices.Connection{ID: c.ID.String(), Profile: c.Profile, Metadata: c.Metadata})
}

// Closed implements delivery.Reporter.
func (r reporter) Closed(c *delivery.Connection, reason delivery.CloseReason) {
	r.notices.Closed(c.Tenant, notices.Connection{ID: c.ID.String(), Profile: c.Profile, Metadata: c.Metadata, Reason: string(reason)})
}

// gone tells of a connection that has closed with another hub. What it was described by only that
// one knew.
func (r reporter) gone(id uuid.UUID, who event.TenantProfile) {
	r.notices.Gone(who.Tenant, notices.Connection{ID: id.String(), Profile: who.Profile})
}
