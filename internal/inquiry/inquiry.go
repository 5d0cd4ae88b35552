package inquiry

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Usage is how the commands are called.
const Usage = `Usage: realtimehub why [-tenant TENANT] EVENT PROFILE
       realtimehub outbox [-tenant TENANT] [-after SEQ] [-follow]

Why says what came of an event for a person, and why. EVENT is its id or its
cursor, PROFILE is type:id, or the id of a user. Outbox prints what services are
told, one JSON document a line; with -follow it goes on until it is interrupted
or refused, and asks again where the hub does not answer.

The environment says whom to ask: REALTIME_URL is the hub's address (default
http://localhost:8080), REALTIME_TOKEN an API key or a token with the scope admin
or publish, and REALTIME_TENANT the tenant.
`

// asker asks a hub about a tenant.
type asker struct {
	base, token, tenant string
	client              *http.Client
}

// Command runs a command, why or outbox, with its arguments. Its answer goes to out, and what it does
// not end for to complaints.
func Command(ctx context.Context, name string, args []string, getenv func(string) string, out, complaints io.Writer) error {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	tenant := flags.String("tenant", getenv("REALTIME_TENANT"), "")
	var after uint64
	var follow bool
	if name == "outbox" {
		flags.Uint64Var(&after, "after", 0, "")
		flags.BoolVar(&follow, "follow", false, "")
	}
	var words []string
	for rest := args; ; { // package flag stops at the first that is none
		if err := flags.Parse(rest); errors.Is(err, flag.ErrHelp) {
			_, err := io.WriteString(out, Usage)
			return err
		} else if err != nil {
			return fmt.Errorf("%s: %w\n\n%s", name, err, Usage)
		}
		if flags.NArg() == 0 {
			break
		}
		words, rest = append(words, flags.Arg(0)), flags.Args()[1:]
	}
	a := &asker{strings.TrimSuffix(getenv("REALTIME_URL"), "/"), getenv("REALTIME_TOKEN"), *tenant, &http.Client{Timeout: 30 * time.Second}}
	if a.base == "" {
		a.base = "http://localhost:8080"
	}
	if fault := misuse(name, a.tenant, words); fault != "" {
		return fmt.Errorf("%s: %s\n\n%s", name, fault, Usage)
	}
	if name == "why" {
		return a.why(ctx, words[0], words[1], out)
	}
	return a.outbox(ctx, after, follow, out, complaints)
}

// misuse is what is missing, or too much; empty: nothing.
func misuse(name, tenant string, words []string) string {
	switch {
	case name == "outbox" && len(words) > 0:
		return "it takes no " + strconv.Quote(words[0])
	case name == "why" && len(words) == 0:
		return "no event is named, and nobody who should have got it: realtimehub why EVENT PROFILE"
	case name == "why" && len(words) == 1:
		return "nobody is named who should have got the event: realtimehub why " + words[0] + " PROFILE, where PROFILE is user:42, for example"
	case name == "why" && len(words) > 2:
		return "it takes an event and a profile, and no " + strconv.Quote(words[2])
	case tenant == "":
		return "no tenant is named: set REALTIME_TENANT, or give -tenant TENANT"
	}
	return ""
}

// get asks for a path of the tenant.
func (a *asker) get(ctx context.Context, path string, query url.Values, into any) error {
	address := a.base + "/v1/tenants/" + url.PathEscape(a.tenant) + path + "?" + query.Encode()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	if a.token != "" {
		r.Header.Set("Authorization", "Bearer "+a.token)
	}
	res, err := a.client.Do(r)
	if failed, ok := errors.AsType[*url.Error](err); ok {
		return fmt.Errorf("no answer from %s, which REALTIME_URL sets: %w", a.base, failed.Err)
	}
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		var problem struct{ Code, Detail string }
		json.NewDecoder(io.LimitReader(res.Body, 64<<10)).Decode(&problem)
		return &refusal{status: res.StatusCode, code: problem.Code, detail: problem.Detail}
	}
	return json.NewDecoder(res.Body).Decode(into)
}

// refusal is an answer of the hub's that is an error.
type refusal struct {
	status       int
	code, detail string
}

func (r *refusal) Error() string {
	return fmt.Sprintf("the hub answers %d %s: %s", r.status, r.code, r.detail)
}

// passes says whether an error of get may be over a moment later.
func passes(err error) bool {
	r, refused := errors.AsType[*refusal](err)
	return !refused || r.status >= 500 || r.status == http.StatusTooManyRequests
}

// reasons are what each why of the contract says.
var reasons = map[string]string{
	"sentUnacknowledged": "a connection of theirs was sent it, and has not acknowledged it",
	"behind":             "a connection of theirs is still being sent what it missed",
	"filtered":           "no connection of theirs wants events of this type",
	"excluded":           "the event's target excludes them",
	"joinedLater":        "all their connections began after the event",
	"noConnection":       "they have no connection",
	"notAMember":         "they were no member of its room",
	"notATarget":         "the event was for others",
	"unknown":            "another hub that may know does not answer",
}

// states are what each state of the contract says.
var states = map[string]string{
	"acknowledged": "acknowledged it",
	"reported":     "did not acknowledge it by its deadline, and was reported",
	"sent":         "was sent it",
	"owed":         "has not got it, as far as is known",
	"unknown":      "may have acknowledged it or not: that is not kept any more",
}

func (a *asker) why(ctx context.Context, event, profile string, out io.Writer) error {
	var answer struct {
		Event    struct{ ID, Type, Timestamp, Deadline string }
		Receipts []struct {
			State, Why string
			At         *string
		}
	}
	if err := a.get(ctx, "/events/"+url.PathEscape(event)+"/receipts", url.Values{"profile": {profile}}, &answer); err != nil {
		return err
	}
	if len(answer.Receipts) != 1 {
		return errors.New("the hub's answer has no receipt")
	}
	e, r := answer.Event, answer.Receipts[0]
	fmt.Fprintf(out, "%s, %s of %s", e.ID, e.Type, e.Timestamp)
	if e.Deadline != "" {
		fmt.Fprintf(out, " with a deadline of %s", e.Deadline)
	}
	fmt.Fprintf(out, "\n%s %s", profile, say(states, r.State))
	if r.At != nil {
		fmt.Fprintf(out, " (%s)", *r.At)
	}
	if r.Why != "" {
		fmt.Fprintf(out, ": %s (%s)", say(reasons, r.Why), r.Why)
	}
	_, err := fmt.Fprintln(out)
	return err
}

// say is what a word of the contract says; of a word that is not known, the word.
func say(words map[string]string, word string) string {
	if text := words[word]; text != "" {
		return text
	}
	return word
}

// lookAgain is how often outbox asks for more when it follows.
const lookAgain = time.Second

// page is a piece of an outbox.
type page struct {
	Items []json.RawMessage
	Next  uint64
	Gap   bool
}

// outbox prints what there is after a place. When it follows, a failure that may pass is told once
// until the hub answers again.
func (a *asker) outbox(ctx context.Context, after uint64, follow bool, out, complaints io.Writer) error {
	for failing := false; ; {
		var p page
		err := a.get(ctx, "/outbox", url.Values{"after": {strconv.FormatUint(after, 10)}}, &p)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && (!follow || !passes(err)):
			return err
		case err != nil && !failing:
			fmt.Fprintf(complaints, "realtimehub: outbox: asking again after %d: %v\n", after, err)
		case err == nil:
			if err := p.print(after, out); err != nil {
				return err
			}
			after = p.Next
		}
		if failing = err != nil; len(p.Items) > 0 && !failing {
			continue
		}
		if !follow {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(lookAgain):
		}
	}
}

// print prints a page that was asked for after a place.
func (p *page) print(after uint64, out io.Writer) error {
	if p.Gap {
		fmt.Fprintf(out, `{"gap":true,"after":%d}`+"\n", after)
	}
	for _, item := range p.Items {
		if _, err := fmt.Fprintf(out, "%s\n", item); err != nil {
			return err
		}
	}
	return nil
}
