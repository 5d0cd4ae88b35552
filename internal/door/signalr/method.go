package signalr

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/problem"
	"realtimehub/internal/strictjson"
)

// Verbs are what a person's client may do, whichever door it came by. Each bounds how often.
type Verbs interface {
	Touch(ctx context.Context, c *delivery.Connection) error
	Acknowledge(ctx context.Context, c *delivery.Connection, cursor string) error
	// Adjust gives a connection another filter or watch list; nil leaves it.
	Adjust(ctx context.Context, c *delivery.Connection, types **event.Filter, watch *[]event.Profile) error
	Typing(ctx context.Context, tenant string, p event.Profile, conversation string, started bool) error
	// Presence is a JSON array of what a client may see of others, in their order.
	Presence(ctx context.Context, tenant string, viewer event.Profile, asked []event.Profile) ([]byte, error)
}

// call is one invocation that is being done.
type call struct {
	door   *Door
	ctx    context.Context
	conn   *delivery.Connection
	faults problem.Faults
}

// method is what clients may invoke. Its argument is named in errors; empty: it takes none.
type method struct {
	argument string
	do       func(c *call, argument string, v strictjson.Value) (result []byte, err error)
}

// methods are all, by their names in small letters.
var methods = map[string]method{
	"starttyping": {"conversationId", typing(true)},
	"stoptyping":  {"conversationId", typing(false)},
	"touch":       {"", touch},
	"ack":         {"cursor", acknowledge},
	"watch":       {"profiles", watch},
	"getpresence": {"profiles", presence},
	"filter":      {"types", filter},
}

// answer does what a message asks, and appends how it is completed, where somebody waits.
func (d *Door) answer(ctx context.Context, b []byte, conn *delivery.Connection, m Message) []byte {
	result, err := d.do(&call{door: d, ctx: ctx, conn: conn}, m)
	switch {
	case m.ID == "":
		return b
	case err != nil:
		p := problem.Of(err)
		if p.Code == "Internal" {
			d.cfg.Logger.Error("an invocation failed", "method", m.Target, "err", err)
		}
		return appendFailure(b, m.ID, p.Code+": "+p.Detail)
	}
	return appendResult(b, m.ID, result)
}

// Errors of invocations that nothing can be done with.
var (
	errStream  = errors.New("streams are neither sent nor taken: invoke a method")
	errMethods = errors.New("there is no such method: StartTyping, StopTyping, Touch, Ack, Watch, GetPresence, Filter")
)

func (d *Door) do(c *call, m Message) ([]byte, error) {
	of, ok := methods[strings.ToLower(m.Target)]
	switch {
	case m.Type == StreamInvocation || m.Streams:
		c.faults.Add(problem.CodeInvalidField, "target", "%v", errStream)
	case !ok:
		c.faults.Add(problem.CodeUnknownField, "target", "%v", errMethods)
	}
	var only strictjson.Value
	count := 0
	m.Arguments.Array(func(_ int, v strictjson.Value) { only, count = v, count+1 })
	if wanted := min(len(of.argument), 1); ok && count != wanted {
		detail := "the method takes none"
		if wanted == 1 {
			detail = fmt.Sprintf("%s is needed, and nothing else", of.argument)
		}
		c.faults.Add(problem.CodeInvalidField, "arguments", "%s", detail)
	}
	if err := c.faults.Err(); err != nil {
		return nil, err
	}
	return of.do(c, of.argument, only)
}

// text reads an argument that is a text.
func (c *call) text(argument string, v strictjson.Value) string {
	text := c.faults.Text(problem.CodeInvalidField, argument, v)
	if text == "" && !c.faults.Within(argument) {
		c.faults.Add(problem.CodeInvalidField, argument, "must not be empty")
	}
	return text
}

// list says whether an argument is an array of so many at most.
func (c *call) list(argument string, v strictjson.Value, what string) bool {
	if !v.Array(func(int, strictjson.Value) {}) {
		c.faults.Add(problem.CodeInvalidField, argument, "must be an array of %s", what)
		return false
	}
	return !c.faults.TooMany(problem.CodeInvalidField, argument, v, event.MaxAskedProfiles, what)
}

func typing(started bool) func(*call, string, strictjson.Value) ([]byte, error) {
	return func(c *call, argument string, v strictjson.Value) ([]byte, error) {
		conversation := c.text(argument, v)
		if err := event.CheckName(conversation); err != nil && !c.faults.Within(argument) {
			c.faults.Add(problem.CodeInvalidField, argument, "%v", err)
		}
		if err := c.faults.Err(); err != nil {
			return nil, err
		}
		return nil, c.door.cfg.Verbs.Typing(c.ctx, c.conn.Tenant, c.conn.Profile, conversation, started)
	}
}

func touch(c *call, _ string, _ strictjson.Value) ([]byte, error) {
	return nil, c.door.cfg.Verbs.Touch(c.ctx, c.conn)
}

func acknowledge(c *call, argument string, v strictjson.Value) ([]byte, error) {
	cursor := c.text(argument, v)
	if err := c.faults.Err(); err != nil {
		return nil, err
	}
	return nil, c.door.cfg.Verbs.Acknowledge(c.ctx, c.conn, cursor)
}

func watch(c *call, argument string, v strictjson.Value) ([]byte, error) {
	var profiles []event.Profile
	if c.list(argument, v, "profiles") {
		profiles = c.door.cfg.WatchList(&c.faults, argument, v)
	}
	if err := c.faults.Err(); err != nil {
		return nil, err
	}
	return nil, c.door.cfg.Verbs.Adjust(c.ctx, c.conn, nil, &profiles)
}

func presence(c *call, argument string, v strictjson.Value) ([]byte, error) {
	var profiles []event.Profile
	if c.list(argument, v, "profiles") {
		profiles = c.faults.Profiles(problem.CodeInvalidField, argument, v)
	}
	if err := c.faults.Err(); err != nil {
		return nil, err
	}
	return c.door.cfg.Verbs.Presence(c.ctx, c.conn.Tenant, c.conn.Profile, profiles)
}

func filter(c *call, argument string, v strictjson.Value) ([]byte, error) {
	var types *event.Filter
	if c.list(argument, v, "types") {
		if list := c.faults.Texts(problem.CodeInvalidField, argument, v); !c.faults.Within(argument) {
			types = c.faults.Types(argument, list)
		}
	}
	if err := c.faults.Err(); err != nil {
		return nil, err
	}
	return nil, c.door.cfg.Verbs.Adjust(c.ctx, c.conn, &types, nil)
}
