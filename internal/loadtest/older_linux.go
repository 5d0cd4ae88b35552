//go:build linux

package main

import (
	"errors"
	"fmt"
	"slices"
)

const (
	olderTurns    = 300
	olderPosts    = 1_000 // in a turn
	olderConnects = 500   // in a turn
	olderAudience = 2_000 // streams of a tenant
	olderEvents   = 10    // in a turn, to all of them
)

// older are rows beside an older hub.
func older() []row {
	return []row{
		{"older", "CPU µs a POST", "≤ 1.02 × older", turns((*bench).postTurns)},
		{"older-fanout", "CPU µs a delivery", "≤ 1.02 × older", turns((*bench).fanoutTurns)},
		{"older-connect", "CPU µs a connect", "≤ 1.02 × older", turns((*bench).connectTurns)},
	}
}

// turns measures a hub beside an older one. Both run all the time and take many short turns, of
// which the median counts: a machine's mood meets both. begin starts the hub of a name. Each turn
// says what one of many has cost.
func turns(begin func(b *bench, name string) (turn func() (float64, error), end func(), err error)) func(*bench) (figures, error) {
	return func(b *bench) (figures, error) {
		names := []string{"hub", "older"}
		costs := map[string][]float64{}
		turns := map[string]func() (float64, error){}
		for _, name := range names {
			turn, end, err := begin(b, name)
			if err != nil {
				return figures{}, err
			}
			defer end()
			turns[name] = turn
		}
		for i := range olderTurns {
			for _, name := range names {
				cost, err := turns[name]()
				if err != nil {
					return figures{}, err
				}
				if i >= olderTurns/10 { // warm
					costs[name] = append(costs[name], cost)
				}
			}
			slices.Reverse(names) // neither is always the second
		}
		var ratios []float64
		for i, cost := range costs["hub"] {
			ratios = append(ratios, cost/costs["older"][i])
		}
		note := fmt.Sprintf("the median of %d turns' ratios is %.3f", len(ratios), median(ratios))
		return figures{new(median(costs["hub"])), new(median(costs["older"])), "older", note}, nil
	}
}

// postTurns starts a hub with streams. Each turn posts events to one stream each.
func (b *bench) postTurns(name string) (turn func() (float64, error), end func(), err error) {
	streams := min(b.streams, unicastOpen)
	each := max(1, olderPosts/streams)
	return b.publishTurns(name, streams, func(s *server, c *client, p *poster) (float64, error) {
		return s.ran(each*streams, func() error {
			return publish(c, p, each*streams, each, func(i int) []byte { return s.toOne(i%streams, 0) })
		})
	})
}

// fanoutTurns starts a hub with streams. Each turn posts events to all of them.
func (b *bench) fanoutTurns(name string) (turn func() (float64, error), end func(), err error) {
	streams := min(b.streams, olderAudience)
	return b.publishTurns(name, streams, func(s *server, c *client, p *poster) (float64, error) {
		request := s.toAll(0)
		return s.ran(olderEvents*streams, func() error { return publishEach(c, p, olderEvents, request) })
	})
}

// publishTurns starts a hub with streams, and has each turn publish something.
func (b *bench) publishTurns(name string, streams int, do func(*server, *client, *poster) (float64, error)) (turn func() (float64, error), end func(), err error) {
	s, c, finish, err := b.client(name)
	if err != nil {
		return nil, nil, err
	}
	stop := func() {}
	end = func() { stop(); finish() }
	if err := errors.Join(c.open(streams, 0), c.settle(s.quiet())); err != nil {
		end()
		return nil, nil, err
	}
	var p *poster
	return func() (float64, error) {
		if p == nil { // a hub closes connections on which nothing is asked soon
			made, close, err := newPoster(s.addr.String())
			if err != nil {
				return 0, err
			}
			p, stop = made, close
		}
		if err := c.settle(0); err != nil {
			return 0, err
		}
		return do(s, c, p)
	}, end, nil
}

// connectTurns starts a hub without streams. Each turn opens some.
func (b *bench) connectTurns(name string) (turn func() (float64, error), end func(), err error) {
	s, err := b.begin(name)
	if err != nil {
		return nil, nil, err
	}
	streams := min(b.streams, olderConnects)
	return func() (float64, error) {
		c, err := newClient(s)
		if err != nil {
			return 0, err
		}
		defer c.close()
		if _, err := s.connections(c); err != nil { // those of the turn before have ended
			return 0, err
		}
		return s.ran(streams, func() error { return c.open(streams, 0) })
	}, s.stop, nil
}
