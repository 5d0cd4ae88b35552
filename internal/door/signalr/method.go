package signalr

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"realtimehub/internal/client"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/problem"
	"realtimehub/internal/strictjson"
)

// method is what clients may invoke.
type method struct {
	argument string // its name, for errors; empty: there is none
	// read reads the argument. What it asks is a command, as any door's client may say it; nil:
	// GetPresence, which has a result.
	read func(f *problem.Faults, argument string, v strictjson.Value) client.Command
}

// methods are all, by their names in small letters.
var methods = map[string]method{
	"starttyping": {"conversationId", typing("started")},
	"stoptyping":  {"conversationId", typing("stopped")},
	"touch":       {"", func(*problem.Faults, string, strictjson.Value) client.Command { return client.Touch{} }},
	"ack":         {"cursor", acknowledge},
	"watch":       {"profiles", watch},
	"filter":      {"types", filter},
	"getpresence": {"profiles", nil},
}

// answer does what a message asks, and appends how it is completed, where somebody waits.
func (d *Door) answer(ctx context.Context, b []byte, conn *delivery.Connection, m Message) []byte {
	result, err := d.do(ctx, conn, m)
	if err != nil && problem.Of(err).Status == http.StatusInternalServerError {
		d.logger.Error("invocation failed", "tenant", conn.Tenant, "connection", conn.ID, "method", m.Target, "err", err)
	}
	return completed(b, m, result, err)
}

// completed appends what came of an invocation, where somebody waits for it.
func completed(b []byte, m Message, result []byte, err error) []byte {
	switch {
	case m.ID == "":
		return b
	case err != nil:
		p := problem.Of(err)
		return appendFailure(b, m.ID, p.Code+": "+p.Detail)
	}
	return appendResult(b, m.ID, result)
}

// Errors of invocations that nothing can be done with.
var (
	errStream  = errors.New("streams are neither sent nor taken: invoke a method")
	errMethods = errors.New("there is no such method: StartTyping, StopTyping, Touch, Ack, Watch, GetPresence, Filter")
)

// do does what a message asks. It counts as a call, whatever comes of it.
func (d *Door) do(ctx context.Context, conn *delivery.Connection, m Message) (result []byte, err error) {
	if err := d.verbs.Allow(event.TenantProfile{Tenant: conn.Tenant, Profile: conn.Profile}); err != nil {
		return nil, err
	}
	var faults problem.Faults
	of, argument := called(&faults, m)
	if err := faults.Err(); err != nil {
		return nil, err
	}
	if of.read == nil {
		var asked []event.Profile
		if list(&faults, of.argument, argument, "profiles") {
			asked = faults.Profiles(problem.CodeInvalidField, of.argument, argument)
		}
		if err := faults.Err(); err != nil {
			return nil, err
		}
		return d.presence(ctx, conn.Tenant, conn.Profile, asked)
	}
	said := of.read(&faults, of.argument, argument)
	if err := faults.Err(); err != nil {
		return nil, err
	}
	return nil, said.Do(ctx, d.verbs, conn)
}

// called is the method that a message names, and its argument.
func called(f *problem.Faults, m Message) (of method, argument strictjson.Value) {
	of, ok := methods[strings.ToLower(m.Target)]
	switch {
	case m.Type == StreamInvocation || m.Streams:
		f.Add(problem.CodeInvalidField, "target", "%v", errStream)
	case !ok:
		f.Add(problem.CodeUnknownField, "target", "%v", errMethods)
	}
	count := 0
	m.Arguments.Array(func(_ int, v strictjson.Value) { argument, count = v, count+1 })
	switch {
	case !ok:
	case of.argument == "" && count != 0:
		f.Add(problem.CodeInvalidField, "arguments", "the method takes none")
	case of.argument != "" && count != 1:
		f.Add(problem.CodeInvalidField, "arguments", "%s is needed, and nothing else", of.argument)
	}
	return of, argument
}

// list says whether an argument is an array of so many at most.
func list(f *problem.Faults, argument string, v strictjson.Value, what string) bool {
	if !v.Array(func(int, strictjson.Value) {}) {
		f.Add(problem.CodeInvalidField, argument, "must be an array of %s", what)
		return false
	}
	return !f.TooMany(problem.CodeInvalidField, argument, v, event.MaxAskedProfiles, what)
}

func typing(state string) func(*problem.Faults, string, strictjson.Value) client.Command {
	return func(f *problem.Faults, argument string, v strictjson.Value) client.Command {
		return &client.Typing{Conversation: f.Text(problem.CodeInvalidField, argument, v), State: state}
	}
}

func acknowledge(f *problem.Faults, argument string, v strictjson.Value) client.Command {
	return &client.Ack{Cursor: f.Text(problem.CodeInvalidField, argument, v)}
}

func watch(f *problem.Faults, argument string, v strictjson.Value) client.Command {
	if !list(f, argument, v, "profiles") {
		return nil
	}
	profiles := client.WatchValue(f, argument, v)
	return &client.Filter{Watch: &profiles}
}

func filter(f *problem.Faults, argument string, v strictjson.Value) client.Command {
	if !list(f, argument, v, "types") {
		return nil
	}
	texts := f.Texts(problem.CodeInvalidField, argument, v)
	if f.Within(argument) {
		return nil
	}
	types := f.Types(argument, texts)
	return &client.Filter{Types: &types}
}
