package main

import (
	"context"
	"errors"
	"sync"
	"time"
)

// ErrNotMember is returned for typing in a conversation that is not the typist's.
var ErrNotMember = errors.New("not a member of the conversation")

// maxTypingRoom is how many members a conversation may have: past it nobody is told of
// typing, which would cost more than all that is said there.
const maxTypingRoom = 1_000

// Typists are who types where. Others are told of each once, however often it is
// repeated, and that it has stopped: when its client says so, or at the next tick
// after a time without a repeat or after its profile went offline.
type Typists struct {
	hub   *Hub                // static
	ttl   time.Duration       // static
	spoke func(tenantProfile) // static; typing is activity

	mu sync.Mutex
	// Guarded by mu, which is a leaf.
	of      map[tenantProfile]map[string]*typist // by conversation
	due     deadlines
	stopped []*typist // to be told at the next tick
	crowded int       // of whom nobody was told, their conversation being too large
}

type typist struct {
	deadline     // may come before until, as a repeat does not move it
	who          tenantProfile
	conversation string
	until        time.Time
}

// Typing says that a member starts or stops typing in a conversation. ErrNotMember,
// ErrMembership.
func (x *Typists) Typing(ctx context.Context, tenant string, ref ProfileRef, conversation string, started bool) error {
	member, size, err := x.hub.Member(ctx, tenant, Room{KindConversation, conversation}, ref)
	if err != nil {
		return err
	}
	if !member {
		return ErrNotMember
	}
	if started && size > maxTypingRoom {
		started = false
		x.mu.Lock()
		x.crowded++
		x.mu.Unlock()
	}
	return x.Typed(ctx, tenant, ref, conversation, started)
}

// Typed is Typing of whom another hub has found to be a member: its own streams are
// told there, and ours here.
func (x *Typists) Typed(ctx context.Context, tenant string, ref ProfileRef, conversation string, started bool) error {
	who := tenantProfile{tenant, ref}
	x.spoke(who)
	if !x.set(who, conversation, started) {
		return nil
	}
	return x.tell(ctx, who, conversation, started)
}

// set says whether that is news.
func (x *Typists) set(who tenantProfile, conversation string, started bool) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	t, until := x.of[who][conversation], time.Now().Add(x.ttl)
	switch {
	case !started && t == nil:
		return false
	case !started:
		x.removeLocked(t)
		return true
	case t != nil:
		t.until = until
		return false
	}
	t = &typist{who: who, conversation: conversation, until: until}
	if x.of[who] == nil {
		x.of[who] = map[string]*typist{}
	}
	x.of[who][conversation] = t
	x.due.set(t, until)
	return true
}

func (x *Typists) removeLocked(t *typist) {
	x.due.set(t, time.Time{})
	if delete(x.of[t.who], t.conversation); len(x.of[t.who]) == 0 {
		delete(x.of, t.who)
	}
}

func (x *Typists) stopLocked(t *typist) {
	x.removeLocked(t)
	x.stopped = append(x.stopped, t)
}

// left ends all typing of who went offline.
func (x *Typists) left(who tenantProfile) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, t := range x.of[who] {
		x.stopLocked(t)
	}
}

// tick tells of all that has stopped by itself.
func (x *Typists) tick(now time.Time) {
	x.mu.Lock()
	for len(x.due) > 0 && !x.due[0].when().at.After(now) {
		if t := x.due[0].(*typist); t.until.After(now) {
			x.due.set(t, t.until)
		} else {
			x.stopLocked(t)
		}
	}
	stopped := x.stopped
	x.stopped = nil
	x.mu.Unlock()
	for _, t := range stopped {
		x.tell(context.Background(), t.who, t.conversation, false) // logged
	}
}

func (x *Typists) tell(ctx context.Context, who tenantProfile, conversation string, started bool) error {
	kind := TypeTypingStopped
	if started {
		kind = TypeTypingStarted
	}
	to := ToConversation(conversation)
	to.ExcludeProfiles = []ProfileRef{who.profile}
	return x.hub.Say(ctx, ownEvent(who.tenant, kind, to, time.Now(), struct {
		ConversationID string     `json:"conversationId"`
		Profile        ProfileRef `json:"profile"`
	}{conversation, who.profile}))
}

// Crowded is of how many typists nobody was told.
func (x *Typists) Crowded() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.crowded
}
