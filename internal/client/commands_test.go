package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/problem"
	"realtimehub/internal/strictjson"
)

// played is a hub that writes down what it is asked.
type played struct {
	asked []string
	gone  bool // the connection is not there any more
	err   error
}

func (p *played) ask(format string, args ...any) (found bool, err error) {
	p.asked = append(p.asked, fmt.Sprintf(format, args...))
	return !p.gone && p.err == nil, p.err
}

func (p *played) Touch(context.Context, *delivery.Connection) (bool, error) { return p.ask("touch") }
func (p *played) Acknowledge(_ context.Context, _ *delivery.Connection, cursor string) (bool, error) {
	return p.ask("ack %s", cursor)
}
func (p *played) Adjust(_ context.Context, _ *delivery.Connection, types **event.Filter, watch *[]event.Profile) (bool, error) {
	return p.ask("adjust %v %v", types != nil, watch)
}
func (p *played) Prolong(context.Context, *delivery.Connection, time.Time) (bool, error) {
	return p.ask("prolong")
}
func (p *played) Typing(_ context.Context, _ string, _ event.Profile, conversation string, started bool) error {
	_, err := p.ask("typing %s %v", conversation, started)
	return err
}

var mine = &delivery.Connection{Tenant: "acme", Profile: event.Profile{Type: "user", ID: "me"}}

// parsed is the command of a name, and the faults of its members.
func parsed(name, members string) (Command, []string) {
	said := New(name)
	var faults problem.Faults
	strictjson.Value(members).Object(func(field []byte, v strictjson.Value) { said.Field(&faults, string(field), v) })
	var told []string
	for _, fault := range problem.Fields(faults.Err()) {
		told = append(told, strings.TrimSuffix(fmt.Sprintf("%s %s[%d]", fault.Code, fault.Field, fault.Index), "[-1]"))
	}
	return said, told
}

// Each member of a command is one that it has, and of its kind; a fault names it.
func TestMembers(t *testing.T) {
	is := is.New(t)
	many := "[" + strings.Repeat(`"a",`, event.MaxAskedProfiles) + `"a"]`
	for _, tc := range []struct{ name, members, faults string }{
		{"touch", `{}`, ""},
		{"touch", `{"cursor":"x"}`, "UnknownField cursor"},
		{"ack", `{"cursor":"x","active":true}`, ""},
		{"ack", `{"cursor":"x","active":null}`, ""},
		{"ack", `{"cursor":7}`, "InvalidField cursor"},
		{"ack", `{"active":"true"}`, "InvalidField active"},
		{"ack", `{"cursors":"x","active":0}`, "UnknownField cursors, InvalidField active"},
		{"filter", `{"types":["a.*"],"presence":["user:you","user:you"]}`, ""},
		{"filter", `{"types":null,"presence":null}`, ""},
		{"filter", `{"types":7}`, "InvalidField types"},
		{"filter", `{"types":["*b"]}`, "InvalidField types"},
		{"filter", `{"types":` + many + `}`, "InvalidField types"},
		{"filter", `{"presence":` + many + `}`, "InvalidField presence"},
		{"filter", `{"presence":["user:you",7]}`, "InvalidProfile presence[1]"},
		{"filter", `{"type":[]}`, "UnknownField type"},
		{"typing", `{"conversationId":"7","state":"started"}`, ""},
		{"typing", `{"conversationId":7,"state":[]}`, "InvalidField conversationId, InvalidField state"},
		{"typing", `{"typing":true}`, "UnknownField typing"},
		{"token", `{"token":"x"}`, ""},
		{"token", `{"token":7}`, "InvalidField token"},
		{"token", `{"jwt":"x"}`, "UnknownField jwt"},
	} {
		_, faults := parsed(tc.name, tc.members)
		if got := strings.Join(faults, ", "); got != tc.faults {
			t.Errorf("%s %.60s: %q, not %q", tc.name, tc.members, got, tc.faults)
		}
	}
	is.Equal(New("sing"), nil)
}

// A command asks the hub for what it says, and for nothing where a member lacks or is of no use.
func TestCommands(t *testing.T) {
	for _, tc := range []struct{ name, members, asked, err string }{
		{"touch", `{}`, "touch", ""},
		{"ack", `{"cursor":"c1"}`, "ack c1", ""},
		{"ack", `{"cursor":"c1","active":true}`, "ack c1, touch", ""},
		{"ack", `{"active":true}`, "", "InvalidField: cursor: is needed: the id of the last event that was handled"},
		{"filter", `{}`, "adjust false <nil>", ""},
		{"filter", `{"types":["a"],"presence":["none"]}`, "adjust true &[]", ""},
		{"filter", `{"presence":["user:you"]}`, "adjust false &[user:you]", ""},
		{"typing", `{"conversationId":"7","state":"stopped"}`, "typing 7 false", ""},
		{"typing", `{"conversationId":"","state":"begun"}`, "", "InvalidField: state: must be started or stopped\nInvalidField: conversationId: "},
		{"token", `{}`, "", "InvalidField: token: is needed"},
	} {
		hub := &played{}
		said, _ := parsed(tc.name, tc.members)
		err := said.Do(t.Context(), NewVerbs(hub, nil, nil), mine)
		if got := strings.Join(hub.asked, ", "); got != tc.asked || (err == nil) != (tc.err == "") || err != nil && !strings.HasPrefix(err.Error(), tc.err) {
			t.Errorf("%s %s: %q, %v", tc.name, tc.members, got, err)
		}
	}
}

// A connection that has gone is none, and what went wrong at the hub is told as it is. One that
// acknowledges and has gone by the time that it is to be active has acknowledged.
func TestCommandsOfNoConnection(t *testing.T) {
	is := is.New(t)
	broken := errors.New("the broker is away")
	for name, members := range map[string]string{"touch": `{}`, "ack": `{"cursor":"c1","active":true}`, "filter": `{}`} {
		said, _ := parsed(name, members)
		is.Equal(said.Do(t.Context(), NewVerbs(&played{gone: true}, nil, nil), mine), ErrNoConnection)
		hub := &played{err: broken}
		is.Equal(said.Do(t.Context(), NewVerbs(hub, nil, nil), mine), broken)
		is.Equal(len(hub.asked), 1) // and no more of it
	}
	leaves := &leaving{}
	said, _ := parsed("ack", `{"cursor":"c1","active":true}`)
	is.NoErr(said.Do(t.Context(), NewVerbs(leaves, nil, nil), mine))
	is.Equal(leaves.asked, []string{"ack c1", "touch"})
}

// leaving is a hub whose connection goes once it has acknowledged.
type leaving struct{ played }

func (l *leaving) Acknowledge(ctx context.Context, c *delivery.Connection, cursor string) (bool, error) {
	defer func() { l.gone = true }()
	return l.played.Acknowledge(ctx, c, cursor)
}

// Whom to watch is a list of profiles, each once, or a word that stands alone: nobody, or as
// configured.
func TestWatch(t *testing.T) {
	you, bot := event.Profile{Type: "user", ID: "you"}, event.Profile{Type: "bot", ID: "you"}
	for list, tc := range map[string]struct {
		want   []event.Profile
		faults int
	}{
		``:                                {[]event.Profile{}, 0},
		`"none"`:                          {[]event.Profile{}, 0},
		`"*"`:                             {nil, 0},
		`"user:you","bot:you","user:you"`: {[]event.Profile{you, bot}, 0},
		`{"type":"bot","id":"you"}`:       {[]event.Profile{bot}, 0},
		`"BAD:x"`:                         {nil, 1},
	} {
		t.Run(list, func(t *testing.T) {
			is := is.New(t)
			var faults problem.Faults
			got := WatchValue(&faults, "presence", strictjson.Value("["+list+"]"))
			is.Equal(len(problem.Fields(faults.Err())), tc.faults)
			if tc.faults == 0 {
				is.Equal(got, tc.want)
			}
			if strings.Contains(list, "{") {
				return // which a query cannot have
			}
			faults = problem.Faults{}
			var texts []string
			for text := range strings.SplitSeq(list, ",") {
				if text != "" {
					texts = append(texts, strings.Trim(text, `"`))
				}
			}
			got = WatchList(&faults, "presence", texts)
			is.Equal(len(problem.Fields(faults.Err())), tc.faults)
			if tc.faults == 0 {
				is.Equal(got, tc.want)
			}
		})
	}
	var faults problem.Faults
	WatchList(&faults, "presence", make([]string, event.MaxAskedProfiles+1))
	is.New(t).Equal(faults.Err().Error(), "InvalidField: presence: 200 profiles at most")
}
