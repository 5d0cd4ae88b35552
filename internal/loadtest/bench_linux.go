package main

import (
	"errors"
	"fmt"
	"os"
)

// row is one thing that is measured.
type row struct {
	name, unit, asked string
	measure           func(*bench) (figures, error)
}

// figures are the hub's and the one beside it; nil is what was not measured.
type figures struct {
	hub, reference *float64
	beside, note   string
}

// bench is one run.
type bench struct {
	nursery
	streams      int
	binary, base string
	door         door     // by which streams come, where a row does not say
	before       string   // an older hub's program, if any
	natsServer   string   // the program, with -nats
	libraries    string   // the program of other servers of WebSockets, once built
	tenants      int      // used so far
	frame        int      // bytes of a delivery on the hub's wire, once measured
	pacedBare    *float64 // the bare server's figure, which two rows need
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}

// begin starts a server; the hub as set, or takes the one that runs. The name of a
// door is the hub's, by that door.
func (b *bench) begin(name string, settings ...string) (*server, error) {
	switch name {
	case "bare":
		return b.bare()
	case "nchan":
		return b.nchan()
	case "gorilla", "coder":
		return b.library(name)
	case "centrifugo":
		return b.centrifugo()
	}
	var s *server
	var err error
	switch {
	case name == "older":
		s, err = b.hub(b.before, settings...)
	case b.base != "":
		s, err = running(b.base)
	default:
		s, err = b.hub(b.binary, settings...)
	}
	if err != nil {
		return nil, err
	}
	s.door = b.door
	if named, err := doorOf(name); err == nil {
		s.door = named
	}
	b.tenants++
	s.tenant = fmt.Sprintf("load%d-%d", os.Getpid(), b.tenants)
	return s, nil
}

// client is begin, with a client of the server; finish ends both.
func (b *bench) client(name string, settings ...string) (s *server, c *client, finish func(), err error) {
	if s, err = b.begin(name, settings...); err != nil {
		return nil, nil, nil, err
	}
	if c, err = newClient(s); err != nil {
		s.stop()
		return nil, nil, nil, err
	}
	return s, c, func() { c.close(); s.stop() }, nil
}

// with starts a server, opens streams, delivers one event to each, which also
// shows the size of the hub's frame, and measures when all is silent.
func (b *bench) with(row, name string, streams int, measure func(*server, *client, *poster) (float64, error)) (float64, error) {
	s, c, finish, err := b.client(name)
	if err != nil {
		return 0, err
	}
	defer finish()
	b.say("%s: %s: opening %d streams", row, name, streams)
	if err := c.open(streams, 0); err != nil {
		return 0, err
	}
	if err := c.settle(s.quiet()); err != nil {
		return 0, err
	}
	p, stop, err := newPoster(s.addr.String())
	if err != nil {
		return 0, err
	}
	defer stop()
	if err := publish(c, p, 1, 1, func(int) []byte { return s.toAll(b.frame) }); err != nil {
		return 0, err
	}
	if s.name == "hub" {
		b.frame = c.bytes / streams
	}
	if err := c.settle(0); err != nil {
		return 0, err
	}
	return measure(s, c, p)
}

// publish sends n requests and waits until they are answered and every stream
// has so many events since it settled.
func publish(c *client, p *poster, n, each int, request func(i int) []byte) error {
	answered := p.send(n, request)
	if err := c.delivered(each); err != nil {
		select {
		case failed := <-answered: // the cause
			return errors.Join(failed, err)
		default:
			return err
		}
	}
	return <-answered
}

// publishEach sends one event n times, each when every stream has the one before.
func publishEach(c *client, p *poster, n int, request []byte) error {
	for i := range n {
		if err := publish(c, p, 1, i+1, func(int) []byte { return request }); err != nil {
			return err
		}
	}
	return nil
}

// lowest keeps each server's lowest figure: the rest is noise of the machine.
type lowest map[string]float64

func (l lowest) add(name string, figure float64) {
	if had, ok := l[name]; !ok || figure < had {
		l[name] = figure
	}
}

func (l lowest) get(name string) *float64 {
	if figure, ok := l[name]; ok {
		return &figure
	}
	return nil
}

// compare measures all in turn, so many times: a machine's mood then meets all.
func (b *bench) compare(row string, times int, names []string, measure func(name string) (float64, error)) (lowest, error) {
	got := lowest{}
	for range times {
		for _, name := range names {
			cost, err := measure(name)
			if err != nil {
				return nil, err
			}
			got.add(name, cost)
			b.say("%s: %s: %s", row, name, figure(&cost))
		}
	}
	return got, nil
}

// beside are the hub and those of the others that are there, and a note on
// those that are not. The hub is the first: the bare loop needs its frame.
func beside(others ...string) (names []string, note string) {
	names = []string{"hub"}
	for _, name := range others {
		switch {
		case name == "nchan" && !hasNchan():
			note = needsNchan
			continue
		case name == "centrifugo" && !hasCentrifugo():
			note = needsCentrifugo
			continue
		}
		names = append(names, name)
	}
	return names, note
}
