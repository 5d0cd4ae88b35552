package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"

	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/problem"
)

// shapes makes events of every shape at random, as publishers write them.
type shapes struct{ *rand.Rand }

// length is mostly small, and up to a bound.
func (s shapes) length(most int) int {
	return 1 + int(float64(most-1)*s.Float64()*s.Float64()*s.Float64())
}

func (s shapes) word(most int) string {
	b := make([]byte, s.length(most))
	for i := range b {
		b[i] = "abcdefghijklmnopqrstuvwxyz"[s.IntN(26)]
	}
	return string(b)
}

// profiles are names that come again, or that nobody has had before, in either form.
func (s shapes) profiles(most int) []any {
	fresh, long := s.IntN(2) == 0, s.IntN(2) == 0
	list := make([]any, s.length(most))
	for i := range list {
		id := fmt.Sprint("p", s.IntN(500))
		if fresh {
			id = fmt.Sprint(s.Uint64())
		}
		if long {
			id += strings.Repeat("é", 100)
		}
		switch list[i] = any("user:" + id); s.IntN(3) {
		case 0:
			list[i] = id
		case 1:
			list[i] = map[string]any{"type": s.word(32), "id": id}
		}
	}
	return list
}

func (s shapes) event(tenant string) []byte {
	target := map[string]any{}
	switch s.IntN(5) {
	case 0:
		target["kind"], target["profiles"] = "profile", s.profiles(1)
	case 1:
		target["kind"], target["profiles"] = "profiles", s.profiles(2000)
	case 2:
		target["kind"], target["conversationId"] = "conversation", s.word(256)
	case 3:
		target["kind"], target["groupId"] = "group", fmt.Sprint("g", s.IntN(50))
	default:
		target["kind"] = "tenant"
	}
	exclude := map[string]any{}
	if s.IntN(4) == 0 {
		exclude["profiles"] = s.profiles(1000)
	}
	if s.IntN(4) == 0 {
		ids := make([]string, s.length(event.MaxExcludedIDs))
		for i := range ids {
			ids[i] = uuid.UUID{byte(s.IntN(256)), byte(i), 6: 0x70, 8: 0x80}.String()
		}
		exclude["connectionIds"] = ids
	}
	target["exclude"] = exclude
	e := map[string]any{
		"tenantId": tenant, "type": "t" + s.word(127), "target": target,
		"payload": strings.Repeat(s.word(40), s.length([]int{1, 20, 1000}[s.IntN(3)])),
	}
	if s.IntN(2) == 0 {
		e["id"] = s.word(128)
	}
	if s.IntN(4) == 0 {
		e["correlationId"] = s.word(128)
		e["traceparent"] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	}
	body, _ := json.Marshal(e)
	return body
}

// keep has a log keep an event, as it was published at a time.
func keep(t *testing.T, log history.Log, body []byte, at time.Time) {
	t.Helper()
	is := is.New(t)
	event, err := DecodeEvent(body, nil, 0)
	is.NoErr(err)
	if event.ID == "" {
		event.ID = uuid.NewString()
	}
	event.Timestamp = at
	is.NoErr(log.Append(context.Background(), []*history.Entry{{Event: event, Envelope: event.Seal()}}))
}

// What is counted is what is kept, whatever events are like, while they come, while old
// ones go, and when most have gone.
func TestKeptEventsWeighWhatTheyAreCountedAs(t *testing.T) {
	t.Parallel()
	if !byItself(t) {
		return
	}
	for _, c := range []struct {
		name    string
		limits  history.Limits
		tenants int
	}{
		{"all are kept", history.Limits{}, 3},
		{"many go", history.Limits{Bytes: 1 << 20, Events: 200}, 3},
		{"many tenants", history.Limits{Total: 4 << 20}, 200},
	} {
		for seed := range uint64(2) {
			t.Run(fmt.Sprint(c.name, " ", seed), func(t *testing.T) {
				c.limits.TTL = time.Hour
				s := shapes{rand.New(rand.NewPCG(seed, 14))}
				before := liveHeap()
				log := history.NewMemory(c.limits)
				check := func(when string) { agrees(t, when, liveHeap()-before, log.Stats().Bytes) }
				begin, n := time.Now(), 400
				for i := range n {
					keep(t, log, s.event(fmt.Sprint("tenant", s.IntN(c.tenants))), begin.Add(time.Duration(i)*time.Second))
					if i == n/4 || i == n-1 {
						check(fmt.Sprint(i, " came"))
					}
				}
				log.Sweep(begin.Add(time.Hour + time.Duration(n-50)*time.Second))
				check("50 are left")
				log.Sweep(begin.Add(3 * time.Hour))
				check("none is left")
				runtime.KeepAlive(log)
			})
		}
	}
}

// So it is of many events of one shape, in which what each kind of thing takes shows.
func TestEventsOfOneShapeWeighWhatTheyAreCountedAs(t *testing.T) {
	t.Parallel()
	if !byItself(t) {
		return
	}
	to := func(target string, args ...any) string {
		return `{"tenantId":"acme","type":"a.b","payload":1,"target":` + fmt.Sprintf(target, args...) + `}`
	}
	in := func(tenant int, event string) string {
		return strings.Replace(event, "acme", fmt.Sprint("acme", tenant), 1)
	}
	wide := func(format string, first int) string {
		var list []string
		for i := range 2000 {
			list = append(list, fmt.Sprintf(format, first+i))
		}
		return to(`{"kind":"profiles","profiles":[%s]}`, strings.Join(list, ","))
	}
	const room, profile = `{"kind":"conversation","conversationId":"r%d"}`, `{"kind":"profile","profiles":["p%d"]}`
	long := strings.Repeat("x", 120)
	for _, c := range []struct {
		name   string
		most   int // that a tenant keeps; 0: all
		events int
		body   func(i int) string
	}{
		{"a tenant each", 0, 2000, func(i int) string { return in(i, to(`{"kind":"tenant"}`)) }},
		{"a tenant and a profile each", 0, 2000, func(i int) string { return in(i, to(profile, i)) }},
		{"one left of a tenant's three", 1, 6000, func(i int) string { return in(i/3, to([]string{profile, room}[i%2], i)) }},
		{"one left of a tenant's three, with long names", 1, 6000, func(i int) string {
			return strings.Replace(to([]string{profile, room}[i%2], i), "acme", fmt.Sprint(long, i/3), 1)
		}},
		{"one profile", 0, 10_000, func(int) string { return to(profile, 1) }},
		{"a profile each", 0, 10_000, func(i int) string { return to(profile, i) }},
		{"a room each", 0, 10_000, func(i int) string { return to(room, i) }},
		{"many gone", 100, 20_000, func(i int) string { return to(profile, i) }},
		{"wide", 0, 50, func(i int) string { return wide(`"user:p%d"`, 2000*i) }},
		{"wide, again and again", 0, 50, func(int) string { return wide(`"p%d"`, 0) }},
		{"wide, of objects", 0, 50, func(i int) string { return wide(`{"type":"ab","id":"\u0061%d"}`, 2000*i) }},
		{"wide, and one stays of each", 0, 50, func(i int) string { return wide(`"p%d"`, 1999*i) }},
		{"wide, and gone", 3, 50, func(i int) string { return wide(`"p%d"`, 2000*i) }},
		{"large", 0, 100, func(i int) string {
			return strings.Replace(to(`{"kind":"tenant"}`), "1", `"`+strings.Repeat("x", 32_700+100*i)+`"`, 1)
		}},
		{"long names", 0, 2000, func(i int) string {
			return fmt.Sprintf(`{"id":"%[1]s%[2]d","tenantId":"%[1]s","correlationId":"%[1]s","type":"%[1]s","payload":1,"target":{"kind":"group","groupId":"%[1]s\"%[2]d"}}`, long, i)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := liveHeap()
			log := history.NewMemory(history.Limits{Events: c.most, TTL: time.Hour})
			for i := range c.events {
				keep(t, log, []byte(c.body(i)), time.Now())
			}
			agrees(t, "all came", liveHeap()-before, log.Stats().Bytes)
			log.Sweep(time.Now().Add(2 * time.Hour))
			agrees(t, "all are gone", liveHeap()-before, log.Stats().Bytes)
			runtime.KeepAlive(log)
		})
	}
}

// An event keeps what it is made of, and nothing of the request that brought it.
func TestKeptEventsKeepNoRequests(t *testing.T) {
	t.Parallel()
	if !byItself(t) {
		return
	}
	alone(t, "what this hub keeps")
	is := is.New(t)
	h := newTestHub(t)
	pad := "?pad=" + strings.Repeat("x", 14<<10)
	const events = 300
	for _, path := range []string{"profiles/user:%d/events", "conversations/%d/events", "groups/%d/events"} {
		before, counted := liveHeap(), h.Stats().Log.Bytes
		for i := range events {
			w := ask(h.API.Handler(), http.MethodPost, fmt.Sprintf("/v1/tenants/acme%d/"+path+pad, i%10, i), `{"type":"a.b","payload":1}`)
			is.Equal(w.Code, http.StatusAccepted)
		}
		heap, counted := liveHeap()-before, h.Stats().Log.Bytes-counted
		t.Logf("%s: %d KB in memory, counted as %d KB", path, heap>>10, counted>>10)
		is.True(heap < 2*counted+64<<10) // 4 MB, if each kept its request's line
	}
}

// Ids that are no connection's are refused by name, and so are too many.
func TestExcludedConnections(t *testing.T) {
	const valid = `"01a20b6b-b9ee-789c-bf01-260aa0b28d5c"`
	body := func(ids string) []byte {
		return []byte(`{"tenantId":"acme","type":"a.b","payload":1,"target":{"kind":"tenant","exclude":{"connectionIds":` + ids + `}}}`)
	}
	const field = "target.exclude.connectionIds"
	for ids, want := range map[string]string{
		`[]`: "", `null`: "", `[` + valid + `,` + valid + `]`: "",
		`[` + strings.Repeat(valid+",", event.MaxExcludedIDs-1) + valid + `]`: "",
		`[` + strings.Repeat(valid+",", event.MaxExcludedIDs) + valid + `]`:   field,
		`[` + strings.Repeat(`"x",`, 20_000) + valid + `]`:                    field,
		`"x"`: field, `{}`: field, `[""]`: field + "[0]", `[null]`: field + "[0]",
		`[` + valid + `,"x"]`:                        field + "[1]",
		`["{01a20b6b-b9ee-789c-bf01-260aa0b28d5c}"]`: field + "[0]", // what the parser takes as well
		`["01A20B6B-b9ee-789c-bf01-260aa0b28d5c"]`:   field + "[0]",
		`["01a20b6bb9ee789cbf01260aa0b28d5c"]`:       field + "[0]",
		`["` + strings.Repeat("x", 100) + `"]`:       field + "[0]",
	} {
		is := is.New(t)
		_, err := DecodeEvent(body(ids), nil, 0)
		faults := problem.Fields(err)
		is.Equal(len(faults) > 0, want != "")
		is.True(len(faults) <= event.MaxExcludedIDs+1)
		for _, f := range faults {
			is.Equal(f.Code, problem.CodeInvalidTarget)
			is.True(f.Field == want || strings.HasPrefix(f.Field, want+"["))
			is.True(!strings.Contains(f.Detail, "xx")) // nothing is repeated
		}
	}

	// What earlier hubs have stored is read all the same.
	is := is.New(t)
	e, err := event.DecodeStored(body(`["x",` + valid + `]`))
	is.NoErr(err)
	is.Equal(len(e.Target.ExcludeConnections), 1)
	is.True(bytes.Contains(e.AppendWhole(nil), []byte(`"connectionIds":[`+valid+`]`)))
}
