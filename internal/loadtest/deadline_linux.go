//go:build linux

package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

const (
	deadlineRounds = 5 // events, one after another
	deadlineTime   = 8 * time.Second
	ackTime        = time.Second // over which acknowledgements are spread
)

// deadline measures events to a room in which everybody acknowledges them, beside the same
// events without a deadline. So many come within a second, and are acknowledged together, as
// clients do: on the stream itself where its door, of which "" is the bench's, is a WebSocket.
func deadline(events int, by string) func(*bench) (figures, error) {
	return func(b *bench) (figures, error) {
		if b.base != "" {
			return figures{}, errNotRestarted
		}
		recipients := min(b.streams, members)
		got, err := b.compare("deadline", 2, []string{"acknowledged", "none"}, func(kind string) (float64, error) {
			r, end, err := b.enter(cmp.Or(by, b.door.name), recipients)
			if err != nil {
				return 0, err
			}
			defer end()
			return r.server.spent(deadlineRounds*events*recipients, func() error {
				for round := range deadlineRounds {
					if err := r.turn(round, events, kind == "acknowledged"); err != nil {
						return err
					}
				}
				return r.client.rest(deadlineTime) // the last is judged
			})
		})
		note := fmt.Sprintf("%d recipients, each with one acknowledgement for every %d", recipients, events)
		return figures{got.get("acknowledged"), got.get("none"), "none", note}, err
	}
}

// audience is a room whose members all have a stream.
type audience struct {
	server *server
	client *client
	poster *poster
	ids    []string // of the connections
}

// enter starts a hub with an audience, which comes by a door.
func (b *bench) enter(by string, n int) (r *audience, end func(), err error) {
	s, c, finish, err := b.client(by, "REALTIME_PRESENCE_AUDIENCE=none")
	if err != nil {
		return nil, nil, err
	}
	s.acks = true
	stop := func() {}
	end = func() { stop(); finish() }
	r = &audience{server: s, client: c}
	if err := r.join(n); err != nil {
		end()
		return nil, nil, err
	}
	if r.poster, stop, err = newPoster(s.addr.String()); err != nil {
		finish()
		return nil, nil, err
	}
	for _, conn := range r.poster.conns { // a hub closes connections on which nothing is asked soon
		if err := roundTrip(conn, s.request("GET", "/healthz", "text/plain", nil)); err != nil {
			end()
			return nil, nil, err
		}
	}
	return r, end, nil
}

func (r *audience) join(n int) error {
	var all []string
	for i := range n {
		all = append(all, profile(i))
	}
	body, err := json.Marshal(map[string]any{"members": all})
	if err != nil {
		return err
	}
	p, stop, err := dial(1, r.server.addr.String())
	if err != nil {
		return err
	}
	defer stop()
	join := r.server.request("PUT", r.server.path("/conversations/room/members"), "application/json", body)
	if err := <-p.send(1, func(int) []byte { return join }); err != nil {
		return fmt.Errorf("%d members: %w", n, err)
	}
	if err := r.client.open(n, 0); err != nil {
		return err
	}
	for after := ""; len(r.ids) < n; {
		var page struct {
			Connections []struct{ ID string }
			Next        string
		}
		if err := r.server.get("/connections?limit=1000"+after, &page); err != nil {
			return err
		}
		for _, c := range page.Connections {
			r.ids = append(r.ids, c.ID)
		}
		if after = "&after=" + page.Next; page.Next == "" && len(r.ids) < n {
			return fmt.Errorf("%d connections instead of %d", len(r.ids), n)
		}
	}
	return r.client.settle(r.server.quiet())
}

// turn publishes some events within a second, and has everybody acknowledge them, once, within
// the next.
func (r *audience) turn(round, events int, acknowledged bool) error {
	s, start, id := r.server, time.Now(), ""
	for i := range events {
		if err := r.client.rest(time.Until(start.Add(time.Duration(i) * time.Second / time.Duration(events)))); err != nil {
			return err
		}
		n := round*events + i + 1
		id = fmt.Sprint("e", n)
		request := s.request("POST", "/v1/events", "application/json", r.event(id, acknowledged))
		if err := publish(r.client, r.poster, 1, n, func(int) []byte { return request }); err != nil {
			return err
		}
	}
	end := time.Now().Add(ackTime)
	if acknowledged {
		if err := r.acknowledge(id); err != nil {
			return err
		}
	}
	return r.client.rest(time.Until(end))
}

func (r *audience) event(id string, acknowledged bool) []byte {
	deadline := ""
	if acknowledged {
		deadline = fmt.Sprintf(`"deadline":%q,`, deadlineTime)
	}
	return fmt.Appendf(nil, `{"id":%q,"tenantId":%q,"type":"load.test",%s"payload":%q,"target":{"kind":"conversation","conversationId":"room"}}`, id, r.server.tenant, deadline, payload)
}

// acknowledge has everybody acknowledge what came up to an event, spread over a time, and waits
// until the hub knows it of all.
func (r *audience) acknowledge(id string) error {
	var kept struct{ Cursor string }
	if err := r.server.get("/events/"+id, &kept); err != nil {
		return err
	}
	send := r.postAcks
	if r.server.door.socket {
		send = r.sayAcks
	}
	if err := send(kept.Cursor); err != nil {
		return err
	}
	for end := time.Now().Add(patience); ; {
		var came struct{ Counts map[string]int }
		if err := r.server.get("/events/"+id+"/receipts?limit=1", &came); err != nil {
			return err
		}
		if came.Counts["acknowledged"] == len(r.ids) {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%d recipients, of whom came %v", len(r.ids), came.Counts)
		}
		if err := r.client.rest(ackTime / 10); err != nil {
			return err
		}
	}
}

// dueAt is when the i-th of the audience acknowledges.
func (r *audience) dueAt(start time.Time, i int) time.Time {
	return start.Add(ackTime * time.Duration(i) / time.Duration(len(r.ids)))
}

func (r *audience) postAcks(cursor string) error {
	start, body := time.Now(), fmt.Appendf(nil, `{"cursor":%q}`, cursor)
	answered := r.poster.send(len(r.ids), func(i int) []byte {
		time.Sleep(time.Until(r.dueAt(start, i)))
		return r.server.request("POST", "/v1/connections/"+r.ids[i]+"/ack", "application/json", body)
	})
	if err := r.client.rest(ackTime); err != nil {
		return err
	}
	return <-answered
}

func (r *audience) sayAcks(cursor string) error {
	start, text := time.Now(), fmt.Sprintf(r.server.door.ack, cursor)
	for i := range r.client.streams {
		due := r.dueAt(start, i)
		if err := r.client.until("the next to acknowledge", func() bool { return !time.Now().Before(due) }); err != nil {
			return err
		}
		if err := r.client.streams[i].say(text); err != nil {
			return fmt.Errorf("stream %d: %w", i, err)
		}
	}
	return nil
}

// path is one of the tenant's.
func (s *server) path(rest string) string { return "/v1/tenants/" + s.tenant + rest }

// get asks about the tenant.
func (s *server) get(path string, into any) error {
	answer, err := http.Get("http://" + s.host + s.path(path))
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, answer.Status)
	}
	return json.NewDecoder(answer.Body).Decode(into)
}
