package main

import (
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"github.com/gobwas/ws"
	"github.com/matryer/is"

	"realtimehub/internal/access"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/hubtest"
	"realtimehub/internal/settings"
)

// openSocket opens GET /v1/socket?query and reads hub.ready.
func (h *testHub) openSocket(t testing.TB, query string, headers ...string) *hubtest.Socket {
	t.Helper()
	return h.next().fromOutside().OpenSocket(t, query, headers...)
}

// ends reads hub.closing and the close frame.
func ends(t testing.TB, s *hubtest.Socket) (code websocket.StatusCode, closing string) {
	t.Helper()
	closing = s.Until(t, "hub.closing").Data
	if _, err := s.Read(); err != io.EOF {
		t.Fatal(err)
	}
	code, _ = s.End()
	return code, closing
}

// said is an answer in a word: ok, or a problem's code and the field at fault.
func said(a hubtest.Answer) string {
	n := "null"
	if a.N != nil {
		n = fmt.Sprint(*a.N)
	}
	switch {
	case a.OK && a.Problem == nil:
		return n + " ok"
	case a.OK, a.Problem == nil:
		return n + " neither"
	case len(a.Problem.Errors) > 0:
		return n + " " + a.Problem.Code + " " + a.Problem.Errors[0].Field
	}
	return n + " " + a.Problem.Code
}

// Each command does what its call does, and fails as that does; a socket outlives all of them.
func TestSocketCommands(t *testing.T) {
	is := is.New(t)
	h := newTrustedHub(t, openDoor(t), access.RatesConfig{ClientRate: -1}, func(_ *HubConfig, p *PresenceConfig) { p.Audience = settings.AudienceTenant })
	h.changes(t, http.MethodPut, "/v1/tenants/acme/conversations/talk/members", `{"members":["user:me","user:other"]}`)
	other := h.open(t, "tenant=acme&profile=other")
	c := h.openSocket(t, meQuery+"&ack=true&presence=none") // or it is told of itself at some time
	cursor := h.publish(t, "acme", "a.b", `{"kind":"profile","profiles":["me"]}`, "1")["cursor"].(string)
	is.Equal(c.Until(t, "a.b").ID, cursor)
	for _, tc := range []struct{ command, want string }{
		{`{"n":1,"do":"touch"}`, "1 ok"},
		{`{"do":"touch","n":2}`, "2 ok"},
		{`{"n":3,"do":"touch","x":1}`, "3 UnknownField x"},
		{`{"n":4,"do":"ack","cursor":"` + cursor + `"}`, "4 ok"},
		{`{"cursor":"` + cursor + `","do":"ack","n":4}`, "4 ok"},
		{`{"n":5,"do":"ack"}`, "5 InvalidField cursor"},
		{`{"n":5,"do":"ack","cursor":"` + cursor + `","active":1}`, "5 InvalidField active"},
		{`{"n":5,"do":"ack","cursor":"elsewhere"}`, "5 UnknownCursor"},
		{`{"n":6,"do":"typing","conversationId":"talk","state":"started"}`, "6 ok"},
		{`{"n":6,"do":"typing","conversationId":"talk","state":"begun"}`, "6 InvalidField state"},
		{`{"n":6,"do":"typing","state":"started"}`, "6 InvalidField conversationId"},
		{`{"n":6,"do":"typing","conversationId":"elsewhere","state":"started"}`, "6 NotAMember"},
		{`{"n":7,"do":"filter","types":["c.*"],"presence":["none"]}`, "7 ok"},
		{`{"n":7,"do":"filter","types":["*c"]}`, "7 InvalidField types"},
		{`{"n":7,"do":"filter","presence":[7]}`, "7 InvalidProfile presence[0]"},
		{`{"n":8,"do":"token","token":"x"}`, "8 ok"}, // in open mode there is nothing to prolong
		{`{"n":8,"do":"token"}`, "8 InvalidField token"},
		{`{"n":9,"do":"sing"}`, "9 InvalidField do"},
		{`{"n":9}`, "9 InvalidField do"},
		{`{"n":"9","do":"touch"}`, "null InvalidField n"},
		{`{"n":-1,"do":"touch"}`, "null InvalidField n"},
		{`{"n":1,"n":2,"do":"touch"}`, "null MalformedJson "},
		{`{"n":1`, "null MalformedJson "},
		{`[]`, "null MalformedJson "},
		{`{"n":999999999999999,"do":"touch"}`, "999999999999999 ok"},
	} {
		got := said(c.Ask(t, tc.command))
		if got != tc.want {
			t.Errorf("%s: %s, not %s", tc.command, got, tc.want)
		}
	}
	_, conn := h.holder(c.ConnectionID)
	active := conn.LastActivity()
	is.Equal(said(c.Ask(t, `{"n":10,"do":"ack","cursor":"`+cursor+`","active":null}`)), "10 ok")
	is.True(conn.LastActivity().Equal(active))
	is.Equal(said(c.Ask(t, `{"n":11,"do":"ack","cursor":"`+cursor+`","active":true}`)), "11 ok")
	is.True(conn.LastActivity().After(active))
	other.until(t, "typing.started")
	h.publish(t, "acme", "a.b", `{"kind":"tenant"}`, "2") // is filtered out
	h.publish(t, "acme", "c.d", `{"kind":"tenant"}`, "3")
	is.Equal(c.Next(t).Type, "c.d")
	c.Send(t, "{\"n\":1,\"do\":\"touch\"}\n\n{\"n\":2,\"do\":\"x\"}\r\n{\"n\":3,\"do\":\"touch\"}") // lines are answered in order
	is.Equal(said(c.Answer(t)), "1 ok")
	is.Equal(said(c.Answer(t)), "2 InvalidField do")
	is.Equal(said(c.Answer(t)), "3 ok")
	c.Send(t, "{\"do\":\"touch\"}\n{\"do\":\"x\"}\n{\"n\":4,\"do\":\"touch\"}") // without a number only what fails is answered
	is.Equal(said(c.Answer(t)), "null InvalidField do")
	is.Equal(said(c.Answer(t)), "4 ok")
}

// Commands count as calls of their profile do, together with those.
func TestSocketHasTheLimitOfCalls(t *testing.T) {
	alone(t, "each hub counts for itself")
	is := is.New(t)
	h := newTrustedHub(t, openDoor(t), access.RatesConfig{ClientRate: onceADay})
	called, commanded := h.openSocket(t, meQuery), h.openSocket(t, "tenant=acme&profile=you")
	touch := func(c *hubtest.Socket) int {
		status, _ := h.do(t, "POST", "/v1/connections/"+c.ConnectionID+"/touch", "")
		return status
	}
	is.Equal(touch(called), http.StatusNoContent)
	refused := called.Ask(t, `{"n":7,"do":"touch"}`)
	is.Equal(said(refused), "7 RateLimited")
	is.Equal(refused.Problem.Status, http.StatusTooManyRequests)
	is.Equal(said(called.Ask(t, `{"n":1,"do":"sing"}`)), "1 RateLimited") // what is no command, too
	is.Equal(said(commanded.Ask(t, `{"n":1,"do":"touch"}`)), "1 ok")
	is.Equal(touch(commanded), http.StatusTooManyRequests)
}

// What is wrong with a request or its credential is told on the socket, since a page sees nothing else.
func TestSocketThatIsRefused(t *testing.T) {
	alone(t, "one hub proves a credential, without the others")
	is := is.New(t)
	h := newTrustedHub(t, newAuth(t, access.Config{Secret: testSecret}), access.RatesConfig{})
	token := func(changes ...any) string { return strings.TrimPrefix(bearer(t, changes...), "Bearer ") }
	for name, tc := range map[string]struct {
		query   string
		headers []string
		code    websocket.StatusCode
		closing string
	}{
		"without a credential":      {"", nil, 4403, `"code":"CredentialRequired"`},
		"with a bad one":            {"access_token=" + badToken(t), nil, 4403, `"code":"InvalidCredential"`},
		"with one that has expired": {"access_token=" + token("exp", 1000), nil, 4403, `"code":"CredentialExpired"`},
		"without the scope":         {"access_token=" + token("scope", "publish"), nil, 4403, `"code":"ScopeRequired"`},
		"with two":                  {"", []string{"Authorization", bearer(t), "Sec-WebSocket-Protocol", "realtime.v1, bearer." + token()}, 4403, `"code":"InvalidCredential"`},
		"with one for later":        {"access_token=" + token("nbf", time.Now().Add(time.Minute).Unix()), nil, 1013, `{"reason":"pending"`},
		"with fields at fault":      {"types=*&ack=perhaps&access_token=" + token(), nil, 4403, `"field":"ack"`},
		"with one that is unread":   {"types=a.*;presence=none&access_token=" + token(), nil, 4403, `"field":"types"`},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			code, closing := ends(t, h.fromOutside().DialSocket(t, tc.query, tc.headers...))
			is.Equal(code, tc.code)
			is.True(strings.Contains(closing, tc.closing))
		})
	}
	is.Equal(h.Stats().Refused[delivery.CloseRefused], int64(7))
	is.Equal(h.Stats().Refused[delivery.ClosePending], int64(1))
	for _, headers := range [][]string{
		{"Authorization", bearer(t)}, {"Sec-WebSocket-Protocol", "realtime.v1, bearer." + token()}, {"Cookie", tokenCookie + "=" + token()},
	} {
		c := h.openSocket(t, "", headers...)
		is.Equal(c.Conn.Subprotocol() == "realtime.v1", headers[0] == "Sec-WebSocket-Protocol")
	}
}

// A page opens a socket only of its own hub, of an origin that is listed, or in open mode of this
// machine: a browser would send its cookie from anywhere.
func TestSocketOfAForeignPage(t *testing.T) {
	alone(t, "one hub is asked")
	h := newTrustedHub(t, newAuth(t, access.Config{Secret: testSecret, Origins: []string{"https://app.example.com"}}), access.RatesConfig{})
	open := newTestHub(t)
	all := newTrustedHub(t, newAuth(t, access.Config{Secret: testSecret, Origins: []string{"*"}}), access.RatesConfig{})
	for _, tc := range []struct {
		hub    *testHub
		origin string
		status int
	}{
		{h, h.URL, 101}, {h, "https://app.example.com", 101}, {h, "", 101},
		{h, "https://evil.example.com", 403}, {h, "https://app.example.com.evil.example", 403}, {h, "null", 403}, {h, "http://localhost:3000", 403},
		{all, "https://evil.example.com", 101},
		{open, "http://localhost:3000", 101}, {open, "https://evil.example.com", 403}, {open, "null", 403},
	} {
		for _, path := range []string{"/v1/socket", "/signalr"} {
			t.Run(tc.origin+path, func(t *testing.T) {
				is := is.New(t)
				r, err := http.NewRequest(http.MethodGet, tc.hub.URL+path+"?"+meQuery, nil)
				is.NoErr(err)
				for line := range strings.Lines(upgradeHead) {
					name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
					r.Header.Set(name, value)
				}
				r.Header.Set("Authorization", bearer(t))
				if tc.origin != "" {
					r.Header.Set("Origin", tc.origin)
				}
				res, err := tc.hub.client.Do(r)
				is.NoErr(err)
				res.Body.Close()
				is.Equal(res.StatusCode, tc.status)
			})
		}
	}
}

// A socket ends with its token, unless it is given another one of the same person.
func TestSocketAndItsToken(t *testing.T) {
	alone(t, "one hub proves a credential, without the others")
	is := is.New(t)
	h := newTrustedHub(t, newAuth(t, access.Config{Secret: testSecret}), access.RatesConfig{ClientRate: -1})
	token := func(changes ...any) string { return strings.TrimPrefix(bearer(t, changes...), "Bearer ") }
	soon := time.Now().Add(25 * time.Second) // of an end that is told at once
	c := h.openSocket(t, "access_token="+token("exp", soon.Unix()))
	left := h.openSocket(t, "access_token="+token("exp", soon.Unix()))
	is.True(strings.Contains(c.Until(t, "hub.expiring").Data, event.FormatTime(soon.Truncate(time.Second))))
	for _, tc := range []struct{ token, want string }{
		{badToken(t), "1 InvalidCredential"},
		{token("exp", 1000), "1 CredentialExpired"},
		{token("scope", "publish"), "1 ScopeRequired"},
		{token("sub", "user:2"), "1 ConnectionNotFound"},
		{token("tenant", "globex"), "1 ConnectionNotFound"},
		{token(), "1 ok"},
	} {
		is.Equal(said(c.Ask(t, `{"n":1,"do":"token","token":"`+tc.token+`"}`)), tc.want)
	}
	h.streams.Prolong(h.streams.Connection(left.ConnectionID), time.Now()) // ahead of it
	code, closing := ends(t, left)
	is.Equal(code, websocket.StatusCode(4401))
	is.True(strings.Contains(closing, `"reason":"expired"`))
	is.Equal(said(c.Ask(t, `{"n":2,"do":"touch"}`)), "2 ok") // it lives on
}

// The close frame says why the hub ends a socket.
func TestSocketEnds(t *testing.T) {
	alone(t, "each hub counts for itself")
	is := is.New(t)
	h := newTestHub(t, func(c *HubConfig, _ *PresenceConfig) { c.Most = delivery.Limits{Profile: 1, All: 2} })
	first, kicked := h.openSocket(t, meQuery), h.openSocket(t, "tenant=acme&profile=kicked")
	second := h.openSocket(t, meQuery)
	code, closing := ends(t, first)
	is.Equal(code, websocket.StatusCode(4409))
	is.True(strings.Contains(closing, `"reason":"replaced"`))
	code, closing = ends(t, h.fromOutside().DialSocket(t, "tenant=acme&profile=late"))
	is.Equal(code, websocket.StatusCode(4429))
	is.True(strings.Contains(closing, `"reason":"capacity"`))
	status, _ := h.do(t, "DELETE", "/v1/tenants/acme/connections/"+kicked.ConnectionID, "")
	is.Equal(status, http.StatusNoContent)
	code, _ = ends(t, kicked)
	is.Equal(code, websocket.StatusCode(4410))
	go h.streams.Drain(t.Context(), 0)
	code, _ = ends(t, second)
	is.Equal(code, websocket.StatusGoingAway)
	eventually(t, func() bool { return h.Stats().Closes[delivery.CloseDrain] == 1 })
	code, closing = ends(t, h.fromOutside().DialSocket(t, meQuery))
	is.Equal(code, websocket.StatusGoingAway)
	is.True(strings.Contains(closing, `"reason":"drain"`))
}

// Who answers no ping has vanished, though its system takes all that comes.
func TestSocketThatVanishes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		h := newSilentHub(t, false, false)
		defer h.end()
		answers, mute := h.socket(t), h.socket(t)
		go func() {
			for {
				if _, err := ws.ReadFrame(answers.from); err != nil {
					return
				}
				io.WriteString(answers, pongFrame)
			}
		}()
		pings := 0
		for frame, err := ws.ReadFrame(mute.from); err == nil && pings < 10; frame, err = ws.ReadFrame(mute.from) {
			is.Equal(frame.Header.OpCode, ws.OpPing)
			pings++
		}
		is.Equal(pings, 3)
		time.Sleep(time.Hour)
		is.Equal(h.Stats().Closes[delivery.CloseVanished], int64(1))
		is.Equal(len(h.streams.Connections("acme", nil)), 1)
		answers.Close()
		synctest.Wait()
		is.Equal(len(h.streams.Connections("acme", nil)), 0)
	})
}

// What has come of a message is its person's to pay for, until all of it has.
func TestSocketPaysForWhatHasNotCome(t *testing.T) {
	alone(t, "each hub counts for itself")
	is := is.New(t)
	h := newTestHub(t)
	s := h.bareSocket(t, h.URL, meQuery, "")
	bodies := func() float64 { return scrape(t, h.Handler)[`realtime_quota_bytes{quota="bodies"}`] }
	command := `{"n":1,"do":"touch"` + strings.Repeat(" ", 15<<10) + `}`
	frame := frameOf(textFrame, command)
	io.WriteString(s, frame[:10<<10])
	eventually(t, func() bool { return bodies() >= 10<<10 })
	io.WriteString(s, frame[10<<10:])
	is.Equal(s.text(t), touched)
	eventually(t, func() bool { return bodies() == 0 })
	io.WriteString(s, frame[:10<<10])
	eventually(t, func() bool { return bodies() >= 10<<10 })
	s.Close()
	eventually(t, func() bool { return bodies() == 0 }) // who leaves in the middle does not pay for ever
}

// A quiet socket's place moves on in place of a heartbeat, and its client answers that, too.
func TestSocketMovesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		h := newSilentHub(t, false, false)
		defer h.end()
		s := h.socket(t)
		receipts, err := h.Publish(t.Context(), []*event.Event{{TenantID: "acme", Type: "a.b", Payload: []byte("0"), Target: event.ToProfile(event.Profile{Type: "user", ID: "you"})}})
		is.NoErr(err)
		frame := s.next(t)
		for n := 0; n < 10 && frame.Header.OpCode == ws.OpPing; n++ { // once in four times there is a place instead
			io.WriteString(s, pongFrame)
			frame = s.next(t)
		}
		is.Equal(string(frame.Payload), `{"id":"`+receipts[0].Cursor+`"}`)
		for range 6 { // twice what may be left unanswered
			frame = s.next(t)
			is.Equal(frame.Header.OpCode, ws.OpPing)
			io.WriteString(s, pongFrame)
		}
		synctest.Wait()
		is.Equal(len(h.streams.Connections("acme", nil)), 1)
	})
}

// Whose share of memory is used up can say nothing, and what has not come whole ends its socket.
func TestSocketOfWhoHasNoMemoryLeft(t *testing.T) {
	alone(t, "each hub counts for itself")
	is := is.New(t)
	h := newTestHub(t)
	c, s := h.openSocket(t, meQuery), h.bareSocket(t, h.URL, meQuery, "")
	memory := h.quotas.Body(event.TenantProfile{Tenant: "127.0.0.1"}) // who is charged in open mode
	for n := 1 << 24; n > 0; n /= 2 {
		for memory.Use(n) {
		}
	}
	for command, want := range map[string]string{
		`{"do":"filter","types":["a","n"],"n":7}`: "7 BodiesBusy", // it knows its command again
		`{"do":"touch"}`:             "null BodiesBusy",
		`{"n":1,"n":2,"do":"touch"}`: "null BodiesBusy",
	} {
		is.Equal(said(c.Ask(t, command)), want)
	}
	io.WriteString(s, frameOf(firstFragment, "x"))
	is.True(strings.Contains(s.text(t), `"reason":"capacity"`))
	is.Equal(s.closes(t), ws.StatusCode(4429))
	is.Equal(h.Stats().Closes[delivery.CloseCapacity], int64(1))
	memory.Close()
	is.Equal(said(c.Ask(t, `{"n":2,"do":"touch"}`)), "2 ok")
}

// Who was sent away says nothing more, though the socket is read until its client has ended it.
func TestSocketIsNotListenedToAfterItsEnd(t *testing.T) {
	t.Parallel()
	alone(t, "one hub is asked")
	h := newTestHub(t)
	h.changes(t, http.MethodPut, "/v1/tenants/acme/conversations/talk/members", `{"members":["user:me","user:other"]}`)
	bothWays(t, h, func(t *testing.T, url string) {
		is := is.New(t)
		other := h.open(t, "tenant=acme&profile=other")
		s := h.bareSocket(t, url, meQuery, "")
		typing := frameOf(textFrame, `{"n":1,"do":"typing","conversationId":"talk","state":"started"}`)
		for _, c := range h.streams.Connections("acme", &event.Profile{Type: "user", ID: "me"}) {
			h.streams.Kick(c, delivery.CloseKicked)
		}
		s.text(t)
		is.Equal(s.closes(t), ws.StatusCode(4410))
		eventually(t, func() bool { // until the hub has given the socket up
			_, err := io.WriteString(s, typing)
			return err != nil
		})
		is.Equal(h.payloads(t, "acme", other), []string{""})
	})
}

// Who was sent away has handled what it was sent all the same: an acknowledgement is taken behind the end,
// and nothing else of the same text.
func TestSocketAcknowledgesAfterItsEnd(t *testing.T) {
	t.Parallel()
	alone(t, "one hub is asked")
	h := newTestHub(t)
	h.changes(t, http.MethodPut, "/v1/tenants/acme/conversations/talk/members", `{"members":["user:me","user:other"]}`)
	bothWays(t, h, func(t *testing.T, url string) {
		is := is.New(t)
		id := rand.Text()
		other := h.open(t, "tenant=acme&profile=other")
		s := h.bareSocket(t, url, meQuery+"&ack=true", "")
		e := h.accepted(t, "/v1/events", `{"tenantId":"acme","id":"`+id+`","type":"a.b","payload":1,"deadline":"1h","target":{"kind":"profile","profiles":["me"]}}`)
		s.text(t)
		for _, c := range h.streams.Connections("acme", &event.Profile{Type: "user", ID: "me"}) {
			h.streams.Kick(c, delivery.CloseKicked)
		}
		io.WriteString(s, frameOf(textFrame, `{"n":1,"do":"typing","conversationId":"talk","state":"started"}`+"\n"+`{"n":2,"do":"ack","cursor":"`+e["cursor"].(string)+`"}`))
		h.hasAcknowledged(t, id, "me")
		is.True(strings.Contains(s.text(t), "hub.closing"))
		is.Equal(s.closes(t), ws.StatusCode(4410)) // and no answer comes
		is.Equal(h.payloads(t, "acme", other), []string{""})
	})
}
