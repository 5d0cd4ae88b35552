package typing

import (
	"context"
	"net/http"
	"sync"
	"time"

	"realtimehub/internal/allowance"
	"realtimehub/internal/due"
	"realtimehub/internal/event"
	"realtimehub/internal/fair"
	"realtimehub/internal/problem"
	"realtimehub/internal/sized"
)

// ErrNotMember is returned for typing in a conversation that is not the typist's.
var ErrNotMember = problem.New("not a member of the conversation", problem.Problem{Status: http.StatusForbidden, Code: "NotAMember"})

// maxRoom is how many members a conversation may have: past it nobody is told of
// typing, which would cost more than all that is said there.
const maxRoom = 1_000

// Typists are who types where. Others are told of each once, however often it is
// repeated, and that it has stopped: when its client says so, or at the next tick
// after a time without a repeat or after its profile went offline.
//
// What is told is always what is so then, by one goroutine a typist at a time: so the
// order holds, though any of it may wait for the membership service.
type Typists struct {
	cfg   Config                          // static
	ticks *fair.Series[string, []*typist] // what they tell of, by tenant; guards itself

	mu sync.Mutex
	// Guarded by mu, which is a leaf.
	of      sized.Table[event.TenantProfile, *sized.Table[string, *typist]] // by conversation
	calls   uint64                                                          // so far
	due     due.Queue[*typist]                                              // what a tick looks at
	crowded int                                                             // of whom nobody was told, their conversation being too large
	untold  int                                                             // whose stop was given up
}

// Config is what Typists need to know.
type Config struct {
	TTL     time.Duration // after which typing that is not repeated has stopped
	Pools   *allowance.Pools
	Spoke   func(event.TenantProfile) // typing is activity
	Members interface {
		// Member says whether a profile belongs to a room, and how many do. It may ask.
		Member(ctx context.Context, tenant string, r event.Room, p event.Profile) (member bool, size int, err error)
	}
	Teller interface {
		// Say tells this hub's streams of an event that is not stored.
		Say(ctx context.Context, e *event.Event) error
	}
	// Cast tells other hubs; nil: there are none.
	Cast func(who event.TenantProfile, conversation string, started bool)
}

// New makes them; nobody types yet.
func New(cfg Config) *Typists {
	t := &Typists{cfg: cfg}
	t.ticks = fair.NewSeries(t.tellAll, func(waiting, more []*typist) []*typist { return append(waiting, more...) })
	return t
}

type typist struct {
	due          due.Item // may come before until, as a repeat does not move it
	who          event.TenantProfile
	conversation string
	until        time.Time

	calls   int    // under way: with none, and nothing to tell, it is forgotten
	call    uint64 // the number of the latest that counted
	types   bool
	told    bool // what this hub's streams know of types
	uncast  bool // other hubs are to be told of types
	telling bool // who tells sees to what comes meanwhile
	queued  bool // a tick has taken it, and it is yet to be told of
}

func newTypist(who event.TenantProfile, conversation string) *typist {
	return &typist{who: who, conversation: conversation}
}

func (t *typist) Due() *due.Item { return &t.due }

// Typing says that a member starts or stops typing in a conversation. ErrNotMember,
// ErrMembership, allowance.ErrTenant, allowance.ErrPerson.
func (t *Typists) Typing(ctx context.Context, tenant string, ref event.Profile, conversation string, started bool) error {
	// Its number is taken before it is known to be a member: that may take longer than for
	// what its client says next.
	typist, call, err := t.enter(event.TenantProfile{Tenant: tenant, Profile: ref}, conversation, true)
	if err != nil {
		return err
	}
	defer t.leave(typist)
	member, size, err := t.cfg.Members.Member(ctx, tenant, event.Room{Kind: event.KindConversation, ID: conversation}, ref)
	if err != nil {
		return err
	}
	if !member {
		return ErrNotMember
	}
	if started && size > maxRoom {
		started = false
		t.mu.Lock()
		t.crowded++
		t.mu.Unlock()
	}
	t.cfg.Spoke(typist.who)
	t.set(typist, call, started, t.cfg.Cast != nil)
	return t.tell(typist)
}

// Heard is Typing of whom another hub has found to be a member: its own streams are
// told there, and ours here. It does not wait.
func (t *Typists) Heard(tenant string, ref event.Profile, conversation string, started bool) {
	typist, call, _ := t.enter(event.TenantProfile{Tenant: tenant, Profile: ref}, conversation, false)
	t.cfg.Spoke(typist.who)
	t.set(typist, call, started, false)
	go t.tell(typist)
	t.leave(typist)
}

// typistBytes is what is kept of a typist takes, beside names and with its places in
// tables.
const typistBytes = 176 + 2*57 + 48 + 8*25 + 2*16

func (t *typist) bytes() int64 {
	return typistBytes + t.who.Profile.Bytes() + sized.Text(t.conversation)
}

// enter finds or makes the typist of a call, and says which call it is; leave ends it.
// allowance.ErrTenant, allowance.ErrPerson where it is ours to refuse: there is no typist then.
func (t *Typists) enter(who event.TenantProfile, conversation string, ours bool) (found *typist, call uint64, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	found = t.findLocked(who, conversation)
	if found == nil {
		found = newTypist(who, conversation)
		if err := t.cfg.Pools.Keep(who, found.bytes(), ours); err != nil {
			return nil, 0, err
		}
		theirs := t.of.Get(who)
		if theirs == nil {
			theirs = &sized.Table[string, *typist]{}
			t.of.Put(who, theirs)
		}
		theirs.Put(conversation, found)
	}
	found.calls++
	t.calls++
	return found, t.calls, nil
}

// findLocked is who types where, nil where nobody does.
func (t *Typists) findLocked(who event.TenantProfile, conversation string) *typist {
	if theirs := t.of.Get(who); theirs != nil {
		return theirs.Get(conversation)
	}
	return nil
}

func (t *Typists) leave(typist *typist) {
	t.mu.Lock()
	defer t.mu.Unlock()
	typist.calls--
	t.forgetLocked(typist)
}

// forgetLocked drops who does not type, once that is told and no call is under way.
func (t *Typists) forgetLocked(typist *typist) {
	if typist.calls > 0 || typist.telling || typist.queued || typist.types || typist.told || t.findLocked(typist.who, typist.conversation) != typist {
		return
	}
	theirs := t.of.Get(typist.who)
	if theirs.Delete(typist.conversation); theirs.Len() == 0 {
		t.of.Delete(typist.who)
	}
	t.cfg.Pools.Drop(typist.who, typist.bytes())
}

// set takes in what a call says, unless a later one has.
func (t *Typists) set(typist *typist, call uint64, started, cast bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if call < typist.call {
		return
	}
	typist.call, typist.uncast = call, typist.uncast || cast
	if !started {
		t.stopLocked(typist)
		return
	}
	typist.until = time.Now().Add(t.cfg.TTL)
	if !typist.types {
		typist.types = true
		t.due.Set(typist, typist.until)
	}
}

func (t *Typists) stopLocked(typist *typist) {
	typist.types = false
	t.due.Set(typist, time.Time{})
}

// Left ends all typing of who went offline.
func (t *Typists) Left(who event.TenantProfile) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if theirs := t.of.Get(who); theirs != nil {
		for _, typist := range theirs.All() {
			t.stopLocked(typist)
			t.due.Set(typist, time.Now())
		}
	}
}

// Tick tells of all that has stopped by itself, and of what could not be told before. It waits
// neither for the membership service, where errors are logged, nor for a tenant that is busy.
func (t *Typists) Tick(now time.Time) {
	come := map[string][]*typist{}
	for more := true; more; {
		more = t.take(come, now)
	}
	for tenant, list := range come {
		t.ticks.Do(tenant, list)
	}
}

// piece is how many that are due are taken at a time under the lock, which is that of all tenants.
const piece = 1000

// take takes up to a piece of those who are due, by tenant, and says whether there may be more.
func (t *Typists) take(come map[string][]*typist, now time.Time) (more bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for range piece {
		typist, ok := t.due.Next(now)
		if !ok {
			return false
		}
		if typist.types && typist.until.After(now) {
			t.due.Set(typist, typist.until)
			continue
		}
		t.stopLocked(typist)
		if !typist.queued { // else what is so is told soon
			typist.queued = true
			come[typist.who.Tenant] = append(come[typist.who.Tenant], typist)
		}
	}
	return true
}

// tellAll tells of those whom ticks have taken of one tenant.
func (t *Typists) tellAll(_ string, list []*typist) {
	fair.ForEach(len(list), func(i int) { t.tellQueued(list[i]) })
}

// tellQueued is tell of who was taken by a tick.
func (t *Typists) tellQueued(typist *typist) {
	t.mu.Lock()
	typist.queued = false
	t.mu.Unlock()
	t.tell(typist)
}

// untoldTime is for how long after a typist's time its stop is tried to be told.
const untoldTime = time.Minute

// tell has others know what is so of a typist, unless another call sees to it. Who
// could not be told of a start is told with its repeat, and of a stop at the next tick, until it
// is given up.
func (t *Typists) tell(typist *typist) (err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if typist.telling {
		return nil
	}
	typist.telling = true
	for err == nil && (typist.told != typist.types || typist.uncast) {
		types, news, cast := typist.types, typist.told != typist.types, typist.uncast
		typist.uncast = false
		t.mu.Unlock()
		if news {
			err = t.say(typist, types)
		}
		if err == nil && cast {
			t.cfg.Cast(typist.who, typist.conversation, types)
		}
		t.mu.Lock()
		if err == nil {
			typist.told = types
		} else {
			typist.uncast = typist.uncast || cast
		}
	}
	if typist.told && !typist.types {
		t.againLocked(typist)
	}
	typist.telling = false
	t.forgetLocked(typist)
	return err
}

// againLocked has a stop be told at the next tick, or never: other hubs end the typing by
// themselves.
func (t *Typists) againLocked(typist *typist) {
	now := time.Now()
	if now.Before(typist.until.Add(untoldTime)) {
		t.due.Set(typist, now)
		return
	}
	typist.told, typist.uncast = false, false
	t.untold++
}

// say tells this hub's streams. It may be of another call than the one that tells: so
// it does not end with that one's client.
func (t *Typists) say(typist *typist, started bool) error {
	kind := event.TypeTypingStopped
	if started {
		kind = event.TypeTypingStarted
	}
	to := event.ToConversation(typist.conversation)
	to.ExcludeProfiles = []event.Profile{typist.who.Profile}
	return t.cfg.Teller.Say(context.Background(), event.NewEphemeral(typist.who.Tenant, kind, to, time.Now(), struct {
		ConversationID string        `json:"conversationId"`
		Profile        event.Profile `json:"profile"`
	}{typist.conversation, typist.who.Profile}))
}

// Crowded is of how many typists nobody was told.
func (t *Typists) Crowded() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.crowded
}

// Untold is of how many typists the stop could not be told, and was given up.
func (t *Typists) Untold() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.untold
}
