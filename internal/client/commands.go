package client

import (
	"context"
	"errors"

	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/problem"
	"realtimehub/internal/strictjson"
)

// Command is one thing that a client may say, as a JSON object: all members are read first, and
// then it is done.
type Command interface {
	// Field reads a member. A fault names it.
	Field(f *problem.Faults, name string, v strictjson.Value)
	// Do does it for a connection. The error is what the client is told.
	Do(ctx context.Context, verbs *Verbs, c *delivery.Connection) error
}

// New makes the command of a name; nil if there is none.
func New(name string) Command {
	switch name {
	case "ack":
		return &Ack{}
	case "touch":
		return Touch{}
	case "typing":
		return &Typing{}
	case "filter":
		return &Filter{}
	case "token":
		return &Token{}
	}
	return nil
}

// Names are those of all commands, for who asked for another.
const Names = "ack, touch, typing, filter or token"

// unknown is the fault of a member that a command does not have.
func unknown(f *problem.Faults, name string) {
	f.Add(problem.CodeUnknownField, name, "is not a field here")
}

// invalid is the fault of a field that is known once all have been read.
func invalid(field, detail string) error {
	return &problem.FieldError{Code: problem.CodeInvalidField, Field: field, Index: -1, Detail: detail}
}

// Touch says that somebody is there.
type Touch struct{}

// Field implements Command.
func (Touch) Field(f *problem.Faults, name string, _ strictjson.Value) { unknown(f, name) }

// Do implements Command.
func (Touch) Do(ctx context.Context, verbs *Verbs, c *delivery.Connection) error {
	return there(verbs.hub.Touch(ctx, c))
}

// Ack says that all up to a cursor was handled, and, if it is active, that somebody is there.
type Ack struct {
	Cursor string
	Active bool
}

// Field implements Command.
func (a *Ack) Field(f *problem.Faults, name string, v strictjson.Value) {
	switch {
	case name == "cursor":
		a.Cursor = f.Text(problem.CodeInvalidField, name, v)
	case name != "active":
		f.Add(problem.CodeUnknownField, name, `the body has "cursor" and "active" only`)
	case string(v) != "true" && string(v) != "false" && !problem.Absent(v):
		f.Add(problem.CodeInvalidField, name, "must be true or false")
	default:
		a.Active = string(v) == "true"
	}
}

// Do implements Command.
func (a *Ack) Do(ctx context.Context, verbs *Verbs, c *delivery.Connection) error {
	if a.Cursor == "" {
		return invalid("cursor", "is needed: the id of the last event that was handled")
	}
	err := there(verbs.hub.Acknowledge(ctx, c, a.Cursor))
	if a.Active && err == nil {
		_, err = verbs.hub.Touch(ctx, c) // one that has ended is not active, and has acknowledged
	}
	return err
}

// Filter changes which types of events a connection gets, and whose presence.
type Filter struct {
	Types **event.Filter   // nil: as before
	Watch *[]event.Profile // likewise; a nil list is as configured
}

// Field implements Command.
func (x *Filter) Field(f *problem.Faults, name string, v strictjson.Value) {
	switch {
	case name != "types" && name != "presence":
		unknown(f, name)
	case problem.Absent(v):
	case name == "types":
		if f.TooMany(problem.CodeInvalidField, name, v, event.MaxAskedProfiles, "types") {
			return
		}
		if list := f.Texts(problem.CodeInvalidField, name, v); !f.Within(name) {
			filter := f.Types(name, list)
			x.Types = &filter
		}
	default:
		profiles := WatchValue(f, name, v)
		x.Watch = &profiles
	}
}

// Do implements Command.
func (x *Filter) Do(ctx context.Context, verbs *Verbs, c *delivery.Connection) error {
	return there(verbs.hub.Adjust(ctx, c, x.Types, x.Watch))
}

// Typing says that the connection's person begins or stops typing in a conversation.
type Typing struct {
	Conversation string
	State        string // started or stopped
}

// Field implements Command.
func (t *Typing) Field(f *problem.Faults, name string, v strictjson.Value) {
	switch name {
	case "conversationId":
		t.Conversation = f.Text(problem.CodeInvalidField, name, v)
	case "state":
		t.State = f.Text(problem.CodeInvalidField, name, v)
	default:
		unknown(f, name)
	}
}

// Do implements Command.
func (t *Typing) Do(ctx context.Context, verbs *Verbs, c *delivery.Connection) error {
	return t.DoFor(ctx, verbs, event.TenantProfile{Tenant: c.Tenant, Profile: c.Profile})
}

// DoFor is Do for a person who needs no connection.
func (t *Typing) DoFor(ctx context.Context, verbs *Verbs, who event.TenantProfile) error {
	var err error
	if t.State != "started" && t.State != "stopped" {
		err = invalid("state", "must be started or stopped")
	}
	if bad := event.CheckName(t.Conversation); bad != nil {
		err = errors.Join(err, invalid("conversationId", bad.Error()))
	}
	if err != nil {
		return err
	}
	return verbs.hub.Typing(ctx, who.Tenant, who.Profile, t.Conversation, t.State == "started")
}

// Token gives a connection another token of the same person, with which it lives as long.
type Token struct {
	Place string // the client's address, as the budget of bad tokens counts it

	text string
}

// Field implements Command.
func (t *Token) Field(f *problem.Faults, name string, v strictjson.Value) {
	if name != "token" {
		unknown(f, name)
		return
	}
	t.text = f.Text(problem.CodeInvalidField, name, v)
}

// Do implements Command.
func (t *Token) Do(ctx context.Context, verbs *Verbs, c *delivery.Connection) error {
	if t.text == "" {
		return invalid("token", "is needed")
	}
	who, err := verbs.tokens.Renew(ctx, t.Place, t.text)
	if err != nil {
		return err
	}
	return verbs.Prolong(ctx, c, who)
}
