//go:build linux

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

const (
	storedEvents = 100_000
	missedEach   = 10
	deepMissed   = 10_000
)

// keepAll has the hub keep what the rows publish, and tell nobody of presence,
// which would come between.
var keepAll = []string{
	"REALTIME_HISTORY_EVENTS=0", "REALTIME_HISTORY_BYTES=0", "REALTIME_PRESENCE_AUDIENCE=none",
}

// resume compares reconnects, each of which missed a few of very many events,
// with first connects.
func (b *bench) resume() (figures, error) {
	if b.base != "" {
		return figures{}, errNotRestarted
	}
	const each = missedEach
	got, err := b.compare("resume", 2, []string{"resume", "fresh"}, func(kind string) (float64, error) {
		if kind == "fresh" {
			return b.opened("hub", b.streams, 0, 0, keepAll...)
		}
		return b.resumed(each*b.streams, func(i int) int { return i % b.streams }, func(s *server, c *client) (float64, error) {
			return s.spent(b.streams, func() error {
				if err := c.open(b.streams, 0); err != nil {
					return err
				}
				return c.delivered(1 + each) // hub.ready is one
			})
		})
	})
	note := fmt.Sprintf("%d streams missed %d events each, of %d stored", b.streams, each, each*b.streams)
	return figures{got.get("resume"), got.get("fresh"), "fresh", note}, err
}

// replay is how long one stream takes to get very much that it missed.
func (b *bench) replay() (figures, error) {
	if b.base != "" {
		return figures{}, errNotRestarted
	}
	const others = storedEvents / deepMissed
	got, err := b.compare("replay", 3, []string{"hub"}, func(string) (float64, error) {
		return b.resumed(storedEvents, func(i int) int { return i % others }, func(s *server, c *client) (float64, error) {
			start := time.Now()
			if err := c.open(1, 0); err != nil {
				return 0, err
			}
			err := c.delivered(1 + deepMissed)
			return float64(time.Since(start)) / float64(time.Millisecond), err
		})
	})
	note := fmt.Sprintf("%d of %d stored events, in one connection", deepMissed, storedEvents)
	return figures{hub: got.get("hub"), note: note}, err
}

// resumed starts a hub, publishes so many events to profiles, and measures what
// resumes from before them.
func (b *bench) resumed(events int, to func(i int) int, measure func(*server, *client) (float64, error)) (float64, error) {
	s, err := b.begin("hub", keepAll...)
	if err != nil {
		return 0, err
	}
	defer s.stop()
	if s.cursor, err = s.place(); err != nil {
		return 0, err
	}
	p, stop, err := newPoster(s.addr.String())
	if err != nil {
		return 0, err
	}
	defer stop()
	var body bytes.Buffer
	for i := range events {
		body.Write(s.event(toProfile(to(i))))
		body.WriteByte('\n')
	}
	b.say("resume: publishing %d events", events)
	request := s.request("POST", "/v1/events", "application/x-ndjson", body.Bytes())
	if err := <-p.send(1, func(int) []byte { return request }); err != nil {
		return 0, err
	}
	c, err := newClient(s)
	if err != nil {
		return 0, err
	}
	defer c.close()
	return measure(s, c)
}

// place is the head of the tenant's history, as a stream is told that begins.
func (s *server) place() (string, error) {
	conn, err := net.Dial("tcp", s.addr.String())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	plain := *s
	plain.door = doors[0]
	if _, err := conn.Write(plain.subscribe(0)); err != nil {
		return "", err
	}
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		if id, ok := strings.CutPrefix(lines.Text(), "id: "); ok {
			return id, nil
		}
	}
	return "", errors.New("hub.ready has no id")
}
