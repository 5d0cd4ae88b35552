package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
)

// Status is a profile's presence, all its connections together.
type Status string

// The statuses.
const (
	Online  Status = "online"  // some connection was active within the idle timeout
	Away    Status = "away"    // connections, all idle
	Offline Status = "offline" // no connection, and the grace is over
)

// Audience says who may see a profile's presence.
type Audience string

// The audiences.
const (
	AudienceTenant Audience = "tenant" // everybody in the tenant
	AudienceShared Audience = "shared" // who has a conversation or group in common
	AudienceNone   Audience = "none"   // nobody
)

// ErrNotMember is returned for typing in a conversation that is not the typist's.
var ErrNotMember = errors.New("not a member of the conversation")

const (
	thawTime      = time.Second    // to hear what has happened, once others are heard again
	maxTypingRoom = 1_000          // members past which nobody is told of typing
	maxSeen       = 100_000        // offline profiles whose last activity is remembered
	seenTTL       = 24 * time.Hour // and how long
)

// PresenceConfig is what Presence needs to know; durations of 0 lift the limit.
type PresenceConfig struct {
	IdleTimeout time.Duration
	Tick        time.Duration
	Grace       time.Duration
	TypingTTL   time.Duration
	Audience    Audience
	Burst       int // changes of one tenant in one tick past which a digest goes out
}

// PresenceOf is what is known of one profile.
type PresenceOf struct {
	Profile      ProfileRef `json:"profile"`
	Status       Status     `json:"status"`
	LastActiveAt *string    `json:"lastActiveAt"` // null: never seen
}

// Presence derives each profile's status from what the hub sees, and announces
// changes once a tick. Its work is proportional to what changed: every profile
// and typist has at most one deadline, and only due ones are looked at.
type Presence struct {
	hub    *Hub           // static
	cfg    PresenceConfig // static
	frozen func() bool    // static; says that others cannot be heard. nil: there are none
	thaw   time.Time      // owned by tick: until then nothing is announced

	mu sync.Mutex
	// Guarded by mu.
	tenants map[string]*roll
	due     deadlines
	dirty   []*profile // status may differ from what was announced
	stopped []*typist  // to be told at the next tick
	seen    []sighting // offline profiles, first who left first
	count   map[Status]int
	crowded int // typists of whom nobody was told, their conversation being too large
}

// roll is the presence of one tenant.
type roll struct {
	tenant   string
	profiles map[ProfileRef]*profile
	typists  map[typing]*typist
	count    map[Status]int
}

type profile struct {
	deadline
	roll       *roll
	ref        ProfileRef
	conns      []*Connection
	activeAt   time.Time // the latest activity ever
	spokeAt    time.Time // activity that is no connection's own: typing
	leftAt     time.Time // when the last connection closed
	status     Status
	announced  Status
	dirty      bool
	typesWhere []typing
}

type typing struct {
	ref          ProfileRef
	conversation string
}

type typist struct {
	deadline
	typing
	roll  *roll
	until time.Time
}

type sighting struct {
	profile *profile
	leftAt  time.Time
}

// NewPresence makes the presence of a hub and has it told of connections; Run
// makes it tick.
func NewPresence(hub *Hub, cfg PresenceConfig) *Presence {
	p := &Presence{hub: hub, cfg: cfg, tenants: map[string]*roll{}, count: map[Status]int{}}
	hub.Observe(p)
	return p
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

func (p *Presence) rollLocked(tenant string) *roll {
	r := p.tenants[tenant]
	if r == nil {
		r = &roll{tenant, map[ProfileRef]*profile{}, map[typing]*typist{}, map[Status]int{}}
		p.tenants[tenant] = r
	}
	return r
}

// Connected is the hub's word that c is about to open.
func (p *Presence) Connected(c *Connection) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.connectedLocked(c)
}

// Known has a connection elsewhere counted, that was there before this hub heard of
// it: that is no news.
func (p *Presence) Known(c *Connection) {
	p.mu.Lock()
	defer p.mu.Unlock()
	who := p.connectedLocked(c)
	who.announced = who.status
}

func (p *Presence) connectedLocked(c *Connection) *profile {
	r := p.rollLocked(c.Tenant)
	who := r.profiles[c.Profile]
	if who == nil {
		who = &profile{roll: r, ref: c.Profile, status: Offline, announced: Offline}
		r.profiles[c.Profile] = who
	}
	who.conns = append(who.conns, c)
	p.reviseLocked(who, time.Now())
	return who
}

// Forget drops all that other hubs told of a tenant: it is not known any more.
func (p *Presence) Forget(tenant string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.tenants[tenant]
	if r == nil {
		return
	}
	now := time.Now()
	for _, who := range r.profiles {
		if !slices.ContainsFunc(who.conns, func(c *Connection) bool { return c.elsewhere }) {
			continue
		}
		who.conns = slices.DeleteFunc(who.conns, func(c *Connection) bool { return c.elsewhere })
		if len(who.conns) == 0 {
			who.leftAt = now.Add(-p.cfg.Grace)
		}
		p.reviseLocked(who, now)
		who.announced = who.status
	}
}

// Disconnected is the hub's word that c has closed; who was drained will be back.
func (p *Presence) Disconnected(c *Connection) {
	if !c.drained {
		p.Left(c, time.Now())
	}
}

// Left says that c was there until a time.
func (p *Presence) Left(c *Connection, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.tenants[c.Tenant]
	if r == nil || r.profiles[c.Profile] == nil {
		return
	}
	who := r.profiles[c.Profile]
	who.conns = slices.DeleteFunc(who.conns, func(other *Connection) bool { return other == c })
	now := time.Now()
	if len(who.conns) == 0 {
		who.leftAt = at
	}
	p.reviseLocked(who, now)
}

// Touch says that a connection was active at a time, which is now.
func (p *Presence) Touch(c *Connection, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.lastActivity.Store(now.UnixNano())
	if r := p.tenants[c.Tenant]; r != nil && r.profiles[c.Profile] != nil {
		p.reviseLocked(r.profiles[c.Profile], now)
	}
}

// reviseLocked sets the status that follows from who's connections, and when to
// look again.
func (p *Presence) reviseLocked(who *profile, now time.Time) {
	active := who.spokeAt
	for _, c := range who.conns {
		if at := c.LastActivity(); at.After(active) {
			active = at
		}
	}
	if active.After(who.activeAt) {
		who.activeAt = active
	}
	status, again := Online, time.Time{}
	switch {
	case len(who.conns) == 0:
		if again = who.leftAt.Add(p.cfg.Grace); again.After(now) {
			status = who.status // a page reload is no event
		} else {
			status, again = Offline, time.Time{}
		}
	case p.cfg.IdleTimeout > 0:
		if again = active.Add(p.cfg.IdleTimeout); !again.After(now) {
			status, again = Away, time.Time{}
		}
	}
	// A later deadline waits until the present one has come: activity is frequent.
	if who.at.IsZero() || again.IsZero() || again.Before(who.at) {
		p.due.set(who, again)
	}
	if status == who.status {
		return
	}
	who.roll.count[who.status]--
	who.roll.count[status]++
	p.count[who.status]--
	p.count[status]++
	who.status = status
	if !who.dirty {
		who.dirty = true
		p.dirty = append(p.dirty, who)
	}
	if status == Offline {
		for _, t := range slices.Clone(who.typesWhere) {
			p.stopLocked(who.roll.typists[t])
		}
		p.seen = append(p.seen, sighting{who, who.leftAt})
	}
}

// forgetLocked drops the offline profiles that left too long ago or are too many.
func (p *Presence) forgetLocked(now time.Time) {
	n := 0
	for ; n < len(p.seen) && (len(p.seen)-n > maxSeen || now.Sub(p.seen[n].leftAt) > seenTTL); n++ {
		who := p.seen[n].profile
		if who.status == Offline && who.leftAt.Equal(p.seen[n].leftAt) {
			delete(who.roll.profiles, who.ref)
			if len(who.roll.profiles) == 0 && len(who.roll.typists) == 0 {
				delete(p.tenants, who.roll.tenant)
			}
		}
		p.seen[n] = sighting{}
	}
	p.seen = p.seen[n:]
}

// change is one profile's, as it is announced.
type change struct {
	Profile      ProfileRef `json:"profile"`
	Status       Status     `json:"status"`
	Previous     Status     `json:"previous"`
	LastActiveAt string     `json:"lastActiveAt"`
}

// news is what one tick has to tell one tenant.
type news struct {
	changes     []change
	online, off int
	stopped     []*typist
}

// tick moves what is due and announces what changed since the last tick.
func (p *Presence) tick(now time.Time) {
	if p.frozen != nil && p.frozen() {
		p.thaw = now.Add(thawTime)
	}
	if now.Before(p.thaw) {
		return // who seems to have left may be with another hub
	}
	for tenant, n := range p.advance(now) {
		p.announce(tenant, n, now)
		for _, t := range n.stopped {
			p.tellTyping(context.Background(), tenant, t.typing, false)
		}
	}
}

func (p *Presence) advance(now time.Time) map[string]*news {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.due) > 0 && !p.due[0].when().at.After(now) {
		switch item := p.due[0].(type) {
		case *profile:
			p.due.set(item, time.Time{})
			p.reviseLocked(item, now)
		case *typist:
			p.due.set(item, time.Time{})
			if item.until.After(now) {
				p.due.set(item, item.until)
			} else {
				p.stopLocked(item)
			}
		}
	}
	all := map[string]*news{}
	of := func(r *roll) *news {
		n := all[r.tenant]
		if n == nil {
			n = &news{online: r.count[Online], off: r.count[Away]}
			all[r.tenant] = n
		}
		return n
	}
	for _, who := range p.dirty {
		who.dirty = false
		if who.status != who.announced {
			n := of(who.roll)
			n.changes = append(n.changes, change{who.ref, who.status, who.announced, formatTime(who.activeAt)})
			who.announced = who.status
		}
	}
	for _, t := range p.stopped {
		n := of(t.roll)
		n.stopped = append(n.stopped, t)
	}
	p.dirty, p.stopped = nil, nil
	p.forgetLocked(now)
	return all
}

func (p *Presence) announce(tenant string, n *news, now time.Time) {
	if p.cfg.Audience == AudienceNone || len(n.changes) == 0 {
		return
	}
	shared := p.cfg.Audience == AudienceShared
	notices := make([]Notice, len(n.changes))
	for i, c := range n.changes {
		notices[i] = Notice{c.Profile, ownEvent(tenant, "presence."+string(c.Status), ToTenant(), now, c)}
	}
	var digest *Event
	if p.cfg.Burst > 0 && len(n.changes) > p.cfg.Burst {
		counts := map[string]int{"changed": len(n.changes)}
		if !shared { // how many others there are is not everybody's business
			counts["online"], counts["away"] = n.online, n.off
		}
		digest = ownEvent(tenant, TypePresenceDigest, ToTenant(), now, counts)
	}
	p.hub.Notify(tenant, notices, digest, shared)
}

func formatTime(t time.Time) string { return string(AppendTime(make([]byte, 0, len(TimeFormat)), t)) }

// ownEvent is an ephemeral event of the hub's own making.
func ownEvent(tenant, kind string, to Target, now time.Time, payload any) *Event {
	data, _ := json.Marshal(payload)
	return &Event{
		ID: uuid.Must(uuid.NewV7()).String(), TenantID: tenant, Type: kind, Payload: data,
		Target: to, Timestamp: now, Ephemeral: true,
	}
}

// Typing says that a member starts or stops typing in a conversation; the other
// members are told once, however often it is repeated. ErrNotMember,
// ErrMembership.
func (p *Presence) Typing(ctx context.Context, tenant string, ref ProfileRef, conversation string, started bool) error {
	member, size, err := p.hub.Member(ctx, tenant, Room{KindConversation, conversation}, ref)
	if err != nil {
		return err
	}
	if !member {
		return ErrNotMember
	}
	t := typing{ref, conversation}
	if started && size > maxTypingRoom {
		started = false
		p.mu.Lock()
		p.crowded++
		p.mu.Unlock()
	}
	if !p.setTyping(tenant, t, started) {
		return nil
	}
	return p.tellTyping(ctx, tenant, t, started)
}

// Typed is another hub's word of somebody's typing: its own streams are told there,
// and ours here.
func (p *Presence) Typed(ctx context.Context, tenant string, ref ProfileRef, conversation string, started bool) error {
	t := typing{ref, conversation}
	if !p.setTyping(tenant, t, started) {
		return nil
	}
	return p.tellTyping(ctx, tenant, t, started)
}

// setTyping says whether that is news.
func (p *Presence) setTyping(tenant string, t typing, started bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	r := p.tenants[tenant]
	if r == nil {
		if !started {
			return false
		}
		r = p.rollLocked(tenant)
	}
	if who := r.profiles[t.ref]; who != nil {
		who.spokeAt = now
		p.reviseLocked(who, now)
	}
	at := r.typists[t]
	if !started {
		if at != nil {
			p.removeTypistLocked(at)
		}
		return at != nil
	}
	if at != nil {
		at.until = now.Add(p.cfg.TypingTTL)
		return false
	}
	at = &typist{typing: t, roll: r, until: now.Add(p.cfg.TypingTTL)}
	r.typists[t] = at
	p.due.set(at, at.until)
	if who := r.profiles[t.ref]; who != nil {
		who.typesWhere = append(who.typesWhere, t)
	}
	return true
}

func (p *Presence) removeTypistLocked(t *typist) {
	p.due.set(t, time.Time{})
	delete(t.roll.typists, t.typing)
	if who := t.roll.profiles[t.ref]; who != nil {
		who.typesWhere = slices.DeleteFunc(who.typesWhere, func(other typing) bool { return other == t.typing })
	}
	if len(t.roll.profiles) == 0 && len(t.roll.typists) == 0 {
		delete(p.tenants, t.roll.tenant)
	}
}

// stopLocked ends somebody's typing, to be told at this tick or the next.
func (p *Presence) stopLocked(t *typist) {
	if t != nil {
		p.removeTypistLocked(t)
		p.stopped = append(p.stopped, t)
	}
}

func (p *Presence) tellTyping(ctx context.Context, tenant string, t typing, started bool) error {
	kind := TypeTypingStopped
	if started {
		kind = TypeTypingStarted
	}
	to := ToConversation(t.conversation)
	to.ExcludeProfiles = []ProfileRef{t.ref}
	return p.hub.Say(ctx, ownEvent(tenant, kind, to, time.Now(), struct {
		ConversationID string     `json:"conversationId"`
		Profile        ProfileRef `json:"profile"`
	}{t.conversation, t.ref}))
}

// Counts are how many profiles are not offline, all tenants together, and of how many
// typists nobody was told.
func (p *Presence) Counts() (online, away, crowded int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count[Online], p.count[Away], p.crowded
}

// Of is what is known of profiles, in the order asked.
func (p *Presence) Of(tenant string, profiles []ProfileRef) []PresenceOf {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := make([]PresenceOf, len(profiles))
	for i, ref := range profiles {
		list[i] = PresenceOf{Profile: ref, Status: Offline}
		if r := p.tenants[tenant]; r != nil && r.profiles[ref] != nil {
			list[i] = r.profiles[ref].show()
		}
	}
	return list
}

// Visible is Of as viewer may see it: what the audience hides looks offline.
func (p *Presence) Visible(tenant string, viewer ProfileRef, profiles []ProfileRef) []PresenceOf {
	list := p.Of(tenant, profiles)
	if p.cfg.Audience == AudienceTenant {
		return list
	}
	share := make([]bool, len(profiles))
	if p.cfg.Audience == AudienceShared {
		share = p.hub.Share(tenant, viewer, profiles)
	}
	for i, ref := range profiles {
		if !share[i] && ref != viewer {
			list[i] = PresenceOf{Profile: ref, Status: Offline}
		}
	}
	return list
}

// All are a tenant's profiles of one status, or with status "" those that are
// not offline, sorted.
func (p *Presence) All(tenant string, status Status) []PresenceOf {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := []PresenceOf{}
	if r := p.tenants[tenant]; r != nil {
		for _, who := range r.profiles {
			if who.status == status || status == "" && who.status != Offline {
				list = append(list, who.show())
			}
		}
	}
	slices.SortFunc(list, func(a, b PresenceOf) int {
		return cmp.Or(cmp.Compare(a.Profile.Type, b.Profile.Type), cmp.Compare(a.Profile.ID, b.Profile.ID))
	})
	return list
}

func (who *profile) show() PresenceOf {
	at := formatTime(who.activeAt)
	return PresenceOf{who.ref, who.status, &at}
}
