package main

import (
	"container/list"
	"context"
	"math"
	"slices"
	"sync"
	"time"

	"realtimehub/internal/allowance"
	"realtimehub/internal/cluster"
	"realtimehub/internal/delivery"
	"realtimehub/internal/due"
	"realtimehub/internal/event"
	"realtimehub/internal/fair"
	"realtimehub/internal/settings"
	"realtimehub/internal/sized"
	"realtimehub/internal/typing"
)

// Status is a profile's presence, all its connections together.
type Status string

// The statuses.
const (
	Online  Status = "online"  // some connection was active within the idle timeout
	Away    Status = "away"    // connections, all idle
	Offline Status = "offline" // no connection, and the grace is over
)

const (
	thawTime = time.Second    // to hear what has happened, once others are heard again
	seenTTL  = 24 * time.Hour // so long an offline profile's last activity is remembered
)

// What is kept of a tenant and of a profile takes in bytes, beside its names and with
// its places in tables.
const (
	rollBytes    = 600
	profileBytes = 288 + 2*41 + 2*16 + 2*8
	seenBytes    = 64 // of who is offline more
)

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

// PresenceOf is what is known of one profile.
type PresenceOf struct {
	Profile      event.Profile `json:"profile"`
	Status       Status        `json:"status"`
	LastActiveAt *string       `json:"lastActiveAt"` // null: never seen
}

// Presence derives each profile's status from what the hub sees, and announces
// changes once a tick. Its work is proportional to what changed: every profile
// is due at most once, and only due ones are looked at.
//
// Lock order: a tenant's mu → Presence.mu → typing.Typists.Mu.
type Presence struct {
	delivery delivery.Parts      // static
	pools    *allowance.Pools    // static
	typists  *typing.Typists     // static
	cfg      PresenceConfig      // static
	frozen   func() bool         // static; says that other hubs cannot be heard, and nobody is announced. nil: there are none
	thaw     time.Time           // owned by tick: until then nothing is announced
	ticked   time.Time           // owned by tick
	teller   *teller             // static; tells services. nil: nobody asks
	telling  fair.Series[string] // of tenants
	// notify tells a tenant's streams; static.
	notify func(tenant string, notices []delivery.Notice, digest *event.Event, shared bool)

	mu sync.Mutex
	// Guarded by mu.
	tenants sized.Table[string, *tenantPresence]
	due     due.Queue[*profile]
	dirty   []*profile // status may differ from what was announced
	left    []*profile // offline since the last tick
	count   map[Status]int
}

// tenantPresence is the presence of one tenant.
type tenantPresence struct {
	tenant   string
	profiles sized.Table[event.Profile, *profile]
	present  crowd     // those who are not offline
	absent   crowd     // those who are
	seen     list.List // of *profile: those of them who are remembered, first who left first
	count    map[Status]int
}

type profile struct {
	due       due.Item
	roll      *tenantPresence
	ref       event.Profile
	conns     []*delivery.Connection
	usedAt    time.Time // the latest activity of conns
	elsewhere time.Time // the latest activity of connections to other hubs; zero: there are none
	activeAt  time.Time // the latest activity ever
	spokeAt   time.Time // activity that is no connection's own: typing
	leftAt    time.Time // when the last connection closed, since one opened
	status    Status
	announced Status
	dirty     bool
	place     int           // in its crowd
	seen      *list.Element // in tenantPresence.seen
}

func (x *profile) Due() *due.Item { return &x.due }

// crowd is profiles in no order. Each knows its place, which only gets smaller: whoever looks at
// the places from the last to the first, however much comes and goes meanwhile, meets everybody
// who stays.
type crowd []*profile

func (c *crowd) add(who *profile) {
	who.place = len(*c)
	*c = append(*c, who)
}

func (c *crowd) remove(who *profile) {
	last := (*c)[len(*c)-1]
	(*c)[who.place], last.place = last, who.place
	sized.Pull((*[]*profile)(c), new(int64)) // a profile's bytes have it
}

// crowd is where who is by its status.
func (who *profile) crowd() *crowd {
	if who.status == Offline {
		return &who.roll.absent
	}
	return &who.roll.present
}

// newPresence makes the presence of a hub's people; Run makes it tick. peers are other hubs,
// nil for a hub that is alone.
func newPresence(d delivery.Parts, pools *allowance.Pools, cfg PresenceConfig, peers cluster.Peers) *Presence {
	p := &Presence{delivery: d, pools: pools, cfg: cfg, count: map[Status]int{}, notify: d.Dispatcher.Notify}
	typists := typing.Config{TTL: cfg.TypingTTL, Pools: pools, Spoke: p.spoke, Members: d.Members, Teller: d.Dispatcher}
	if peers != nil {
		p.frozen = func() bool { return !peers.Hears() }
		typists.Cast = func(who event.TenantProfile, conversation string, started bool) {
			peers.Cast(who.Tenant, cluster.Typing{Profile: who.Profile, Conversation: conversation, Started: started})
		}
	}
	p.typists = typing.New(typists)
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

// Connected is the hub's word that c is about to open.
func (p *Presence) Connected(c *delivery.Connection) {
	p.mu.Lock()
	defer p.mu.Unlock()
	who := p.comesLocked(event.TenantProfile{Tenant: c.Tenant, Profile: c.Profile})
	if len(who.conns) == 0 {
		who.usedAt = time.Time{}
	}
	who.conns = append(who.conns, c)
	who.used(c)
	p.reviseLocked(who, time.Now())
}

// Came says that somebody is connected to another hub, who was last active there at a time. It
// is no news of who was there before this hub heard of it.
func (p *Presence) Came(a event.TenantProfile, usedAt time.Time, news bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	who := p.comesLocked(a)
	who.elsewhere = usedAt
	p.reviseLocked(who, time.Now())
	if !news {
		who.announced = who.status
	}
}

// Used says that somebody was active on another hub, at the latest at a time.
func (p *Presence) Used(a event.TenantProfile, usedAt time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if who := p.findLocked(a.Tenant, a.Profile); who != nil {
		who.elsewhere = usedAt
		p.reviseLocked(who, time.Now())
	}
}

// Went says that a connection on another hub was there until a time, and when the others that
// its profile has there were used last; zero: there are none.
func (p *Presence) Went(a event.TenantProfile, usedAt, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if who := p.findLocked(a.Tenant, a.Profile); who != nil {
		who.elsewhere = usedAt
		p.leftLocked(who, at)
	}
}

// comesLocked is who has a connection now, made where nothing was known of them.
func (p *Presence) comesLocked(a event.TenantProfile) *profile {
	r, more := p.tenants.Get(a.Tenant), int64(0)
	if r == nil {
		r = &tenantPresence{tenant: a.Tenant, count: map[Status]int{}}
		p.tenants.Put(a.Tenant, r)
		more += rollBytes + sized.Text(a.Tenant)
	}
	who := r.profiles.Get(a.Profile)
	if who == nil {
		who = &profile{roll: r, ref: a.Profile, status: Offline, announced: Offline}
		r.profiles.Put(a.Profile, who)
		r.absent.add(who)
		more += who.bytes()
	}
	if more > 0 {
		p.pools.State.Force(r.tenant, more) // with a connection that was admitted
	}
	p.returnedLocked(who)
	who.leftAt = time.Time{}
	return who
}

// Forget drops all that other hubs told of a tenant: it is not known any more.
func (p *Presence) Forget(tenant string) {
	now := time.Now()
	p.each(tenant, false, func(who *profile) {
		if who.elsewhere.IsZero() {
			return
		}
		who.elsewhere = time.Time{}
		if !who.connected() {
			who.leftBy(now.Add(-p.cfg.Grace))
		}
		p.reviseLocked(who, now)
		who.announced = who.status
	})
}

// piece is how many profiles are looked at under the lock, which is that of all tenants.
const piece = 1000

// each calls do for a tenant's profiles that are offline, or for those that are not, with the
// lock held, which others get in between. Who moves meanwhile may come twice, or not.
func (p *Presence) each(tenant string, offline bool, do func(*profile)) {
	for end := math.MaxInt; end > 0; {
		end = p.some(tenant, offline, end, do)
	}
}

// some is each for up to a piece of those before a place. It returns the place of the first.
func (p *Presence) some(tenant string, offline bool, end int, do func(*profile)) (from int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.tenants.Get(tenant)
	if r == nil {
		return 0
	}
	crowd := &r.present
	if offline {
		crowd = &r.absent
	}
	end = min(end, len(*crowd))
	from = max(0, end-piece)
	for i := end - 1; i >= from; i-- { // do may take it out of the crowd
		do((*crowd)[i])
	}
	return from
}

// Disconnected is the hub's word that c has closed; who was drained will be back.
func (p *Presence) Disconnected(c *delivery.Connection) {
	if !c.SentAway() {
		p.Left(c, time.Now())
	}
}

// Left says that c was there until a time.
func (p *Presence) Left(c *delivery.Connection, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	who := p.findLocked(c.Tenant, c.Profile)
	if who == nil {
		return
	}
	who.conns = slices.DeleteFunc(who.conns, func(other *delivery.Connection) bool { return other == c })
	if len(who.conns) == 0 {
		who.conns = nil
	}
	if !c.LastActivity().Before(who.usedAt) { // else another was used later
		who.lookAtAll()
	}
	p.leftLocked(who, at)
}

// leftLocked notes that one of who's connections was there until a time.
func (p *Presence) leftLocked(who *profile, at time.Time) {
	now := time.Now()
	if who.connected() && at.After(now) {
		at = now // it need not be back
	}
	who.leftBy(at)
	p.reviseLocked(who, now)
}

// connected says whether who has a connection, on whichever hub.
func (who *profile) connected() bool { return len(who.conns) > 0 || !who.elsewhere.IsZero() }

// used notes the activity of one of who's connections.
func (who *profile) used(c *delivery.Connection) {
	if at := c.LastActivity(); at.After(who.usedAt) {
		who.usedAt = at
	}
}

// lookAtAll notes the activity of those connections that there are now.
func (who *profile) lookAtAll() {
	who.usedAt = time.Time{}
	for _, c := range who.conns {
		who.used(c)
	}
}

// leftBy notes when a connection closed: the last to be told of need not be the last
// that closed.
func (who *profile) leftBy(at time.Time) {
	if at.After(who.leftAt) {
		who.leftAt = at
	}
}

func (p *Presence) findLocked(tenant string, ref event.Profile) *profile {
	if r := p.tenants.Get(tenant); r != nil {
		return r.profiles.Get(ref)
	}
	return nil
}

// Touch says that a connection was active at a time, which is now.
func (p *Presence) Touch(c *delivery.Connection, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.Active(now)
	if who := p.findLocked(c.Tenant, c.Profile); who != nil {
		who.used(c)
		p.reviseLocked(who, now)
	}
}

// spoke says that a profile is active now, on whichever connection.
func (p *Presence) spoke(a event.TenantProfile) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if who := p.findLocked(a.Tenant, a.Profile); who != nil {
		who.spokeAt = time.Now()
		p.reviseLocked(who, who.spokeAt)
	}
}

// reviseLocked sets the status that follows from who's connections, and when to
// look again.
func (p *Presence) reviseLocked(who *profile, now time.Time) {
	active := who.usedAt
	for _, at := range []time.Time{who.elsewhere, who.spokeAt} {
		if at.After(active) {
			active = at
		}
	}
	if active.After(who.activeAt) {
		who.activeAt = active
	}
	status, again := Online, time.Time{}
	switch {
	case !who.connected():
		if again = who.leftAt.Add(p.cfg.Grace); again.After(now) {
			status = who.status // a page reload is no event
		} else {
			status, again = Offline, time.Time{}
			if who.seen != nil {
				again = who.leftAt.Add(seenTTL)
			}
		}
	case p.cfg.IdleTimeout > 0:
		if again = active.Add(p.cfg.IdleTimeout); !again.After(now) {
			status, again = Away, time.Time{}
		}
	}
	// A later time waits until the present one has come: activity is frequent.
	if who.due.At().IsZero() || again.IsZero() || again.Before(who.due.At()) {
		p.due.Set(who, again)
	}
	if status == who.status {
		return
	}
	who.roll.count[who.status]--
	who.roll.count[status]++
	p.count[who.status]--
	p.count[status]++
	who.crowd().remove(who)
	who.status = status
	who.crowd().add(who)
	if !who.dirty {
		who.dirty = true
		p.dirty = append(p.dirty, who)
	}
	if status == Offline {
		p.typists.Left(event.TenantProfile{Tenant: who.roll.tenant, Profile: who.ref})
		p.left = append(p.left, who)
	}
}

// bytes is what is kept of a profile.
func (who *profile) bytes() int64 { return profileBytes + who.ref.Bytes() }

// rememberLocked keeps who has gone offline, for a time, in the place of those of its
// tenant who left first where there is no room for more.
func (p *Presence) rememberLocked(who *profile) {
	if who.status != Offline || who.seen != nil || who.roll.profiles.Get(who.ref) != who {
		return
	}
	r, n := who.roll, who.bytes()+seenBytes
	for !p.pools.Seen.Take(r.tenant, n) {
		first := r.seen.Front()
		if first == nil {
			p.dropLocked(who)
			return
		}
		p.forgetLocked(first.Value.(*profile))
	}
	p.pools.State.Force(r.tenant, seenBytes)
	who.seen = r.seen.PushBack(who)
	p.due.Set(who, who.leftAt.Add(seenTTL))
}

// returnedLocked has who was offline be remembered no longer as such.
func (p *Presence) returnedLocked(who *profile) {
	if who.seen == nil {
		return
	}
	who.roll.seen.Remove(who.seen)
	who.seen = nil
	p.pools.Seen.Give(who.roll.tenant, who.bytes()+seenBytes)
	p.pools.State.Give(who.roll.tenant, seenBytes)
}

// forgetLocked drops who is remembered.
func (p *Presence) forgetLocked(who *profile) {
	p.returnedLocked(who)
	p.dropLocked(who)
}

// dropLocked drops who is offline.
func (p *Presence) dropLocked(who *profile) {
	r, less := who.roll, who.bytes()
	p.due.Set(who, time.Time{})
	r.profiles.Delete(who.ref)
	who.crowd().remove(who)
	if r.profiles.Len() == 0 {
		p.tenants.Delete(r.tenant)
		less += rollBytes + sized.Text(r.tenant)
	}
	p.pools.State.Give(r.tenant, less)
}

// change is one profile's, as it is announced.
type change struct {
	Profile      event.Profile `json:"profile"`
	Status       Status        `json:"status"`
	Previous     Status        `json:"previous"`
	LastActiveAt string        `json:"lastActiveAt"`
}

// news is what one tick has to tell one tenant.
type news struct {
	changes      []change
	known        []event.Profile // whose change is no news, for the teller
	online, away int
}

// tick moves what is due and announces what changed since the last tick.
func (p *Presence) tick(now time.Time) {
	slept := !p.ticked.IsZero() && now.Sub(p.ticked) > p.cfg.Tick+thawTime
	p.ticked = now
	if p.frozen != nil && (slept || p.frozen()) {
		p.thaw = now.Add(thawTime)
	}
	if now.Before(p.thaw) {
		return // who seems to have left may be with another hub
	}
	if !p.delivery.Tenants.SureNow() {
		return // whom to tell is known soon
	}
	all := p.advance(now)
	if p.teller != nil {
		p.teller.tell(all, now)
	}
	for tenant, n := range all {
		if len(n.changes) > 0 && p.cfg.Audience != settings.AudienceNone {
			p.telling.Do(tenant, func() { p.announce(tenant, n, now) }) // the tenant may be busy
		}
	}
	p.typists.Tick(now)
}

// advance moves what is due, and is what changed, by tenant.
func (p *Presence) advance(now time.Time) map[string]*news {
	for more := true; more; {
		more = p.move(now)
	}
	p.mu.Lock()
	dirty, left := p.dirty, p.left
	p.dirty, p.left = nil, nil
	p.mu.Unlock()
	all := map[string]*news{}
	p.inPieces(dirty, func(who *profile) { p.noteLocked(all, who) })
	p.inPieces(left, p.rememberLocked)
	return all
}

// move moves up to a piece of what is due, and says whether there may be more.
func (p *Presence) move(now time.Time) (more bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for range piece {
		who, ok := p.due.Next(now)
		if !ok {
			return false
		}
		p.due.Set(who, time.Time{})
		if who.seen != nil && now.Sub(who.leftAt) >= seenTTL {
			p.forgetLocked(who)
		} else {
			p.reviseLocked(who, now)
		}
	}
	return true
}

// inPieces calls do for some profiles with the lock held, which others get in between.
func (p *Presence) inPieces(list []*profile, do func(*profile)) {
	for some := range slices.Chunk(list, piece) {
		p.mu.Lock()
		for _, who := range some {
			do(who)
		}
		p.mu.Unlock()
	}
}

// noteLocked adds to the news what has changed of somebody who was dirty.
func (p *Presence) noteLocked(all map[string]*news, who *profile) {
	who.dirty = false
	same := who.status == who.announced // and back, within the tick; or it was known
	if same && p.teller == nil {
		return
	}
	r := who.roll
	n := all[r.tenant]
	if n == nil {
		n = &news{online: r.count[Online], away: r.count[Away]}
		all[r.tenant] = n
	}
	if same {
		n.known = append(n.known, who.ref)
		return
	}
	n.changes = append(n.changes, change{who.ref, who.status, who.announced, event.FormatTime(who.activeAt)})
	who.announced = who.status
}

func (p *Presence) announce(tenant string, n *news, now time.Time) {
	shared := p.cfg.Audience == settings.AudienceShared
	notices := make([]delivery.Notice, len(n.changes))
	for i, c := range n.changes {
		notices[i] = delivery.Notice{About: c.Profile, Event: event.NewEphemeral(tenant, "presence."+string(c.Status), event.ToTenant(), now, c)}
	}
	var digest *event.Event
	if p.cfg.Burst > 0 && len(n.changes) > p.cfg.Burst {
		counts := map[string]int{"changed": len(n.changes)}
		if !shared { // how many others there are is not everybody's business
			counts["online"], counts["away"] = n.online, n.away
		}
		digest = event.NewEphemeral(tenant, event.TypePresenceDigest, event.ToTenant(), now, counts)
	}
	p.notify(tenant, notices, digest, shared)
}

// present says whether somebody was announced, and not as offline.
func (p *Presence) present(tenant string, ref event.Profile) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	who := p.findLocked(tenant, ref)
	return who != nil && who.announced != Offline
}

// Counts are how many profiles are not offline, all tenants together.
func (p *Presence) Counts() (online, away int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count[Online], p.count[Away]
}

// Of is what is known of profiles, in the order asked.
func (p *Presence) Of(tenant string, profiles []event.Profile) []PresenceOf {
	list := make([]PresenceOf, 0, len(profiles))
	for some := range slices.Chunk(profiles, piece) {
		p.mu.Lock()
		for _, ref := range some {
			one := PresenceOf{Profile: ref, Status: Offline}
			if who := p.findLocked(tenant, ref); who != nil {
				one = who.show()
			}
			list = append(list, one)
		}
		p.mu.Unlock()
	}
	return list
}

// Visible is Of as viewer may see it: what the audience hides looks offline.
func (p *Presence) Visible(tenant string, viewer event.Profile, profiles []event.Profile) []PresenceOf {
	list := p.Of(tenant, profiles)
	if p.cfg.Audience == settings.AudienceTenant {
		return list
	}
	share := make([]bool, len(profiles))
	if p.cfg.Audience == settings.AudienceShared {
		share = p.delivery.Members.Share(tenant, viewer, profiles)
	}
	for i, ref := range profiles {
		if !share[i] && ref != viewer {
			list[i] = PresenceOf{Profile: ref, Status: Offline}
		}
	}
	return list
}

// All are a tenant's profiles of one status, or with status "" those that are
// not offline, sorted: who they are, since there may be very many. Before the list is made
// begin is told how long it may be, and may refuse it; once it is made, end is called.
func (p *Presence) All(tenant string, status Status, begin func(size int) (end func(), err error)) (list []event.Profile, err error) {
	offline := status == Offline
	end, err := begin(p.size(tenant, offline))
	if err != nil {
		return nil, err
	}
	defer end()
	p.each(tenant, offline, func(who *profile) {
		if who.status.is(status) {
			list = append(list, who.ref)
		}
	})
	slices.SortFunc(list, event.CompareProfiles)
	return slices.Compact(list), nil
}

// size is how many of a tenant's profiles are offline, or are not.
func (p *Presence) size(tenant string, offline bool) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch r := p.tenants.Get(tenant); {
	case r == nil:
		return 0
	case offline:
		return len(r.absent)
	default:
		return len(r.present)
	}
}

// is says whether a status is the one that is asked for; "" asks for any but Offline.
func (s Status) is(asked Status) bool { return s == asked || asked == "" && s != Offline }

func (who *profile) show() PresenceOf {
	at := event.FormatTime(who.activeAt)
	return PresenceOf{who.ref, who.status, &at}
}
