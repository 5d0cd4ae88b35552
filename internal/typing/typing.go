package typing

import (
	"context"
	"net/http"
	"sync"
	"time"

	"realtimehub/internal/allowance"
	"realtimehub/internal/due"
	"realtimehub/internal/event"
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
	cfg Config // static
	// cast tells other hubs; static after the start, nil: there are none.
	cast func(who event.TenantProfile, conversation string, started bool)

	mu sync.Mutex
	// Guarded by mu, which is a leaf.
	of      sized.Table[event.TenantProfile, *sized.Table[string, *typist]] // by conversation
	turn    uint64                                                          // of the latest call
	due     due.Queue[*typist]
	stopped []*typist // to be told at the next tick
	crowded int       // of whom nobody was told, their conversation being too large
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
}

// New makes them; nobody types yet.
func New(cfg Config) *Typists { return &Typists{cfg: cfg} }

// CastTo names who tells other hubs, before the first call.
func (x *Typists) CastTo(cast func(who event.TenantProfile, conversation string, started bool)) {
	x.cast = cast
}

type typist struct {
	due          due.Item // may come before until, as a repeat does not move it
	who          event.TenantProfile
	conversation string
	until        time.Time

	calls   int    // under way: with none, and nothing to tell, it is forgotten
	turn    uint64 // of the latest call that counted
	types   bool
	told    bool // what this hub's streams know of types
	uncast  bool // other hubs are to be told of types
	telling bool // who tells sees to what comes meanwhile
}

func (t *typist) Due() *due.Item { return &t.due }

// Typing says that a member starts or stops typing in a conversation. ErrNotMember,
// ErrMembership, allowance.ErrTenant, allowance.ErrPerson.
func (x *Typists) Typing(ctx context.Context, tenant string, ref event.Profile, conversation string, started bool) error {
	// Its turn comes before it is known to be a member: that may take longer than for
	// what its client says next.
	t, turn, err := x.enter(event.TenantProfile{Tenant: tenant, Profile: ref}, conversation, true)
	if err != nil {
		return err
	}
	defer x.leave(t)
	member, size, err := x.cfg.Members.Member(ctx, tenant, event.Room{Kind: event.KindConversation, ID: conversation}, ref)
	if err != nil {
		return err
	}
	if !member {
		return ErrNotMember
	}
	if started && size > maxRoom {
		started = false
		x.mu.Lock()
		x.crowded++
		x.mu.Unlock()
	}
	x.cfg.Spoke(t.who)
	x.set(t, turn, started, x.cast != nil)
	return x.tell(t)
}

// Heard is Typing of whom another hub has found to be a member: its own streams are
// told there, and ours here. It does not wait.
func (x *Typists) Heard(tenant string, ref event.Profile, conversation string, started bool) {
	t, turn, _ := x.enter(event.TenantProfile{Tenant: tenant, Profile: ref}, conversation, false)
	x.cfg.Spoke(t.who)
	x.set(t, turn, started, false)
	x.tellSoon(t)
	x.leave(t)
}

// typistBytes is what is kept of a typist takes, beside names and with its places in
// tables.
const typistBytes = 176 + 2*57 + 48 + 8*25 + 2*16

func (t *typist) bytes() int64 {
	return typistBytes + t.who.Profile.Bytes() + sized.Text(t.conversation)
}

// enter finds or makes the typist of a call, and says which call it is; leave ends it.
// allowance.ErrTenant, allowance.ErrPerson where it is ours to refuse: there is no typist then.
func (x *Typists) enter(who event.TenantProfile, conversation string, ours bool) (t *typist, turn uint64, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	t = x.findLocked(who, conversation)
	if t == nil {
		t = &typist{who: who, conversation: conversation}
		if err := x.cfg.Pools.Keep(who, t.bytes(), ours); err != nil {
			return nil, 0, err
		}
		theirs := x.of.Get(who)
		if theirs == nil {
			theirs = &sized.Table[string, *typist]{}
			x.of.Put(who, theirs)
		}
		theirs.Put(conversation, t)
	}
	t.calls++
	x.turn++
	return t, x.turn, nil
}

// findLocked is who types where, nil where nobody does.
func (x *Typists) findLocked(who event.TenantProfile, conversation string) *typist {
	if theirs := x.of.Get(who); theirs != nil {
		return theirs.Get(conversation)
	}
	return nil
}

func (x *Typists) leave(t *typist) {
	x.mu.Lock()
	defer x.mu.Unlock()
	t.calls--
	x.forgetLocked(t)
}

// forgetLocked drops who does not type, once that is told and no call is under way.
func (x *Typists) forgetLocked(t *typist) {
	if t.calls > 0 || t.telling || t.types || t.told || x.findLocked(t.who, t.conversation) != t {
		return
	}
	theirs := x.of.Get(t.who)
	if theirs.Delete(t.conversation); theirs.Len() == 0 {
		x.of.Delete(t.who)
	}
	x.cfg.Pools.Drop(t.who, t.bytes())
}

// set takes in what a call says, unless a later one has.
func (x *Typists) set(t *typist, turn uint64, started, cast bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if turn < t.turn {
		return
	}
	t.turn, t.uncast = turn, t.uncast || cast
	if !started {
		x.stopLocked(t)
		return
	}
	t.until = time.Now().Add(x.cfg.TTL)
	if !t.types {
		t.types = true
		x.due.Set(t, t.until)
	}
}

func (x *Typists) stopLocked(t *typist) {
	t.types = false
	x.due.Set(t, time.Time{})
}

// Left ends all typing of who went offline.
func (x *Typists) Left(who event.TenantProfile) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if theirs := x.of.Get(who); theirs != nil {
		for _, t := range theirs.All() {
			x.stopLocked(t)
			x.stopped = append(x.stopped, t)
		}
	}
}

// Tick tells of all that has stopped by itself.
func (x *Typists) Tick(now time.Time) {
	x.mu.Lock()
	for t, ok := x.due.Next(now); ok; t, ok = x.due.Next(now) {
		if t.until.After(now) {
			x.due.Set(t, t.until)
		} else {
			x.stopLocked(t)
			x.stopped = append(x.stopped, t)
		}
	}
	stopped := x.stopped
	x.stopped = nil
	x.mu.Unlock()
	for _, t := range stopped {
		x.tellSoon(t)
	}
}

// tellSoon is tell for who must wait neither for the membership service, where errors are
// logged, nor for other hubs, nor for a tenant that is busy.
func (x *Typists) tellSoon(t *typist) { go x.tell(t) }

// tell has others know what is so of a typist, unless another call sees to it. Who
// could not be told of a start is told with its repeat.
func (x *Typists) tell(t *typist) (err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if t.telling {
		return nil
	}
	t.telling = true
	for err == nil && (t.told != t.types || t.uncast) {
		types, news, cast := t.types, t.told != t.types, t.uncast
		t.uncast = false
		x.mu.Unlock()
		if news {
			err = x.say(t, types)
		}
		if err == nil && cast {
			x.cast(t.who, t.conversation, types)
		}
		x.mu.Lock()
		t.told = types && err == nil
	}
	t.telling = false
	x.forgetLocked(t)
	return err
}

// say tells this hub's streams. It may be of another call than the one that tells: so
// it does not end with that one's client.
func (x *Typists) say(t *typist, started bool) error {
	kind := event.TypeTypingStopped
	if started {
		kind = event.TypeTypingStarted
	}
	to := event.ToConversation(t.conversation)
	to.ExcludeProfiles = []event.Profile{t.who.Profile}
	return x.cfg.Teller.Say(context.Background(), event.NewEphemeral(t.who.Tenant, kind, to, time.Now(), struct {
		ConversationID string        `json:"conversationId"`
		Profile        event.Profile `json:"profile"`
	}{t.conversation, t.who.Profile}))
}

// Crowded is of how many typists nobody was told.
func (x *Typists) Crowded() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.crowded
}
