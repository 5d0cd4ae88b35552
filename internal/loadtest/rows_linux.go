//go:build linux

package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"
)

var rows = []row{
	{"memory", "bytes a stream", "≤ 2048 bytes", (*bench).memory},
	{"paced", "CPU µs a delivery", "≤ 1.1 × bare", (*bench).paced},
	{"burst", "deliveries/s", "≥ 15 × nchan", burst(publishers)},
	{"burst-one", "deliveries/s, one POST at a time", "≥ 15 × nchan", burst(1)},
	{"connect", "CPU µs a connect", "≤ 1.2 × nchan", (*bench).connect},
	{"post", "CPU µs a POST", "≤ 1.25 × bare", (*bench).post},
	{"unicast", "CPU µs a POST", "≤ 1.3 × few", (*bench).unicast},
	{"slope", "bytes a stream more", "≤ 2048 bytes", (*bench).slope},
	{"connects", "ms a connect", "≤ 1.5 × silence", (*bench).connects},
	{"ndjson", "CPU µs a line", "≤ 2 × bare, paced", (*bench).ndjson},
	{"join", "CPU s", "≤ 2 × audience none", (*bench).join},
	{"stalled", "p99 ms", "≤ 1.1 × alone", (*bench).stalled},
	{"limited", "p99 ms", "≤ 1.1 × alone", (*bench).limited},
	{"room", "CPU µs a publish", "≤ 2 × profiles", (*bench).room},
	{"resume", "CPU µs a resume", "≤ 3 × fresh", (*bench).resume},
	{"deadline", "CPU µs a delivery, alone", "≤ 3 × none", deadline(1, "")},
	{"deadline", "CPU µs a delivery, alone, websocket", "≤ 3 × none", deadline(1, "websocket")},
	{"deadline", "CPU µs a delivery, 5 a second", "≤ 3 × none", deadline(5, "")},
	{"deadline", "CPU µs a delivery, 5 a second, websocket", "≤ 3 × none", deadline(5, "websocket")},
	{"replay", "ms", "≤ 1000 ms", (*bench).replay},
}

const (
	pacedRounds = 30
	burstRounds = 5
	burstEvents = 100
	unicasts    = 20_000
	unicastOpen = 1_000
	unicastFew  = 100 // streams that are sent something, beside all others
	lines       = 100_000
	joinTime    = 3 * time.Second
	joinTail    = 2 * time.Second
	members     = 10_000
	present     = 100 // of the members
	publishes   = 2_000
)

var errNotRestarted = errors.New("needs the hub restarted, so not with -url")

func (b *bench) memory() (figures, error) {
	names, note := beside("nchan")
	got, err := b.compare("memory", 1, names, b.held)
	return figures{got.get("hub"), got.get("nchan"), "nchan", note}, err
}

// held is the memory of an idle stream, in bytes.
func (b *bench) held(name string) (float64, error) {
	s, c, finish, err := b.client(name)
	if err != nil {
		return 0, err
	}
	defer finish()
	before, err := pssOf(s.pids)
	if err != nil {
		return 0, err
	}
	b.say("memory: %s: opening %d streams", name, b.streams)
	if err := c.open(b.streams, 0); err != nil {
		return 0, err
	}
	after, err := stableMemory(s, c)
	return float64(after-before) / float64(b.streams), err
}

// stableMemory waits until memory has changed by less than a hundredth for 3 s,
// at most 15 s: a collector gives it back late.
func stableMemory(s *server, c *client) (int, error) {
	stable, since := 0, time.Now()
	for end := since.Add(15 * time.Second); ; {
		now, err := pssOf(s.pids)
		if err != nil {
			return 0, err
		}
		if diff := now - stable; max(diff, -diff) > now/100 {
			stable, since = now, time.Now()
		}
		if time.Since(since) >= 3*time.Second || time.Now().After(end) {
			return now, nil
		}
		if err := c.rest(500 * time.Millisecond); err != nil {
			return 0, err
		}
	}
}

// pace measures events to all streams, one at a time.
func (b *bench) pace(name string) (float64, error) {
	return b.with("paced", name, b.streams, func(s *server, c *client, p *poster) (float64, error) {
		return s.spent(pacedRounds*b.streams, func() error { return publishEach(c, p, pacedRounds, s.toAll(b.frame)) })
	})
}

func (b *bench) paced() (figures, error) {
	names, note := beside("bare", "nchan")
	got, err := b.compare("paced", 3, names, b.pace)
	b.pacedBare = got.get("bare")
	if nchan := got.get("nchan"); nchan != nil {
		note = "nchan " + figure(nchan)
	}
	return figures{got.get("hub"), b.pacedBare, "bare", note}, err
}

// burst measures many events to all streams, with so many POSTs under way at a time.
func burst(underWay int) func(*bench) (figures, error) {
	return func(b *bench) (figures, error) {
		costs := lowest{}
		names, note := beside("nchan")
		got, err := b.compare("burst, µs a delivery", 1, names, func(name string) (float64, error) {
			return b.bursts(name, underWay, costs)
		})
		if err != nil {
			return figures{}, err
		}
		rates := figures{hub: rate(got.get("hub")), reference: rate(got.get("nchan")), beside: "nchan", note: note}
		rates.note = fmt.Sprintf("CPU µs a delivery: hub %s, nchan %s", figure(costs.get("hub")), cmp.Or(note, figure(costs.get("nchan"))))
		return rates, nil
	}
}

// bursts is how long a delivery takes in the fastest of several bursts, in µs. What one costs
// at least is added to costs.
func (b *bench) bursts(name string, underWay int, costs lowest) (float64, error) {
	deliveries := burstEvents * b.streams
	return b.with("burst", name, b.streams, func(s *server, c *client, p *poster) (float64, error) {
		p = &poster{p.conns[:underWay]}
		best, request, rounds := math.Inf(1), s.toAll(b.frame), burstRounds
		if peers[name] != "" {
			rounds = 1 // of many seconds
		}
		for round := range rounds {
			written, err := s.writes()
			if err != nil {
				return 0, err
			}
			start := time.Now()
			cost, err := s.spent(deliveries, func() error {
				return publish(c, p, burstEvents, (round+1)*burstEvents, func(int) []byte { return request })
			})
			if err != nil {
				return 0, err
			}
			took := micros(time.Since(start), deliveries)
			now, err := s.writes()
			if err != nil {
				return 0, err
			}
			best = min(best, took)
			costs.add(name, cost)
			b.say("burst: %s: round %d of %d: %.0f deliveries/s, the server busy for %.0f%% of it", name, round+1, rounds, 1e6/took, 100*cost/took)
			if now > written {
				b.say("burst: %s: %.1f events a write", name, float64(deliveries)/float64(now-written))
			}
		}
		return best, nil
	})
}

// rate is how many a second there are of what takes so many µs.
func rate(micros *float64) *float64 {
	if micros == nil {
		return nil
	}
	return new(1e6 / *micros)
}

func (b *bench) connect() (figures, error) {
	if b.base != "" {
		return figures{}, errNotRestarted
	}
	names, note := beside("bare", "nchan")
	got, err := b.compare("connect", 5, names, func(name string) (float64, error) {
		return b.opened(name, b.streams, 0, 0)
	})
	if note == "" {
		note = "bare " + figure(got.get("bare"))
	}
	return figures{got.get("hub"), got.get("nchan"), "nchan", note}, err
}

func (b *bench) join() (figures, error) {
	if b.base != "" {
		return figures{}, errNotRestarted
	}
	got, err := b.compare("join", 2, []string{"tenant", "none"}, func(audience string) (float64, error) {
		cost, err := b.opened("hub", 1, joinTime, joinTail, "REALTIME_PRESENCE_AUDIENCE="+audience)
		return cost / 1e6, err
	})
	return figures{got.get("tenant"), got.get("none"), "audience none", ""}, err
}

// opened is what a fresh server spends, divided by n, while all streams open
// over a time, and after.
func (b *bench) opened(name string, n int, over, after time.Duration, settings ...string) (float64, error) {
	s, c, finish, err := b.client(name, settings...)
	if err != nil {
		return 0, err
	}
	defer finish()
	return s.spent(n, func() error {
		if err := c.open(b.streams, over); err != nil {
			return err
		}
		return c.rest(after)
	})
}

func (b *bench) post() (figures, error) {
	streams := min(b.streams, unicastOpen)
	each := max(1, unicasts/streams)
	got, err := b.compare("post", 5, []string{"hub", "bare"}, func(name string) (float64, error) {
		return b.with("post", name, streams, func(s *server, c *client, p *poster) (float64, error) {
			return s.spent(each*streams, func() error {
				return publish(c, p, each*streams, each, func(i int) []byte { return s.toOne(i%streams, b.frame) })
			})
		})
	})
	return figures{got.get("hub"), got.get("bare"), "bare", ""}, err
}

// unicast measures what POSTs to a few streams, one each, cost beside many idle ones,
// and beside none.
func (b *bench) unicast() (figures, error) {
	few := min(b.streams, unicastFew)
	got, err := b.compare("unicast", 5, []string{"all", "few"}, func(beside string) (float64, error) {
		streams := few
		if beside == "all" {
			streams = b.streams
		}
		return b.with("unicast", "hub", streams, func(s *server, c *client, p *poster) (float64, error) {
			return s.spent(unicasts, func() error {
				answered := p.send(unicasts, func(i int) []byte { return s.toOne(i%few, b.frame) })
				if err := c.until("events", func() bool { return c.events >= unicasts }); err != nil {
					return err
				}
				return <-answered
			})
		})
	})
	return figures{got.get("all"), got.get("few"), "few", fmt.Sprintf("%d streams, and %d", b.streams, few)}, err
}

func (b *bench) ndjson() (figures, error) {
	each := max(1, lines/b.streams)
	got, err := b.compare("ndjson", 3, []string{"hub"}, func(name string) (float64, error) {
		return b.with("ndjson", name, b.streams, func(s *server, c *client, p *poster) (float64, error) {
			var body bytes.Buffer
			for i := range each * b.streams {
				body.Write(s.event(toProfile(i % b.streams)))
				body.WriteByte('\n')
			}
			request := s.request("POST", "/v1/events", "application/x-ndjson", body.Bytes())
			return s.spent(each*b.streams, func() error { return publish(c, p, 1, each, func(int) []byte { return request }) })
		})
	})
	if err == nil && b.pacedBare == nil {
		var paced lowest
		paced, err = b.compare("paced", 2, []string{"bare"}, b.pace)
		b.pacedBare = paced.get("bare")
	}
	return figures{got.get("hub"), b.pacedBare, "bare, paced", ""}, err
}

func (b *bench) room() (figures, error) {
	streams := min(b.streams, present)
	var all []string
	for i := range members {
		all = append(all, profile(i))
	}
	targets := map[string]map[string]any{
		"conversation": {"kind": "conversation", "conversationId": "room"},
		"profiles":     {"kind": "profiles", "profiles": all[:streams]},
	}
	got, err := b.compare("room", 2, []string{"conversation", "profiles"}, func(kind string) (float64, error) {
		return b.with("room", "hub", streams, func(s *server, c *client, p *poster) (float64, error) {
			body, err := json.Marshal(map[string]any{"members": all})
			if err != nil {
				return 0, err
			}
			join := s.request("PUT", "/v1/tenants/"+s.tenant+"/conversations/room/members", "application/json", body)
			if err := <-p.send(1, func(int) []byte { return join }); err != nil {
				return 0, fmt.Errorf("%d members: %w", members, err)
			}
			if err := c.settle(s.quiet()); err != nil {
				return 0, err
			}
			return s.spent(publishes, func() error { return publishEach(c, p, publishes, s.publish(targets[kind])) })
		})
	})
	note := fmt.Sprintf("%d members, %d streams", members, streams)
	return figures{got.get("conversation"), got.get("profiles"), "profiles", note}, err
}

func micros(d time.Duration, n int) float64 {
	return float64(d) / float64(time.Microsecond) / float64(n)
}
