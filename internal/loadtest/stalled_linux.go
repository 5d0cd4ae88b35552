//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	stalledStreams = 1_000 // and as many healthy ones
	stalledPayload = 8 << 10
	stalledFill    = 40 // events until the stalled sockets are full
	stalledRounds  = 60 // events that are measured: the stalled ones are owed them, and not cut yet
	stalledCut     = 80 // events until the last of them must have been cut
	stalledWindow  = 4 << 10
)

// stalled measures how long healthy clients wait for an event, alone and beside
// as many that do not read, and what one of those costs.
func (b *bench) stalled() (figures, error) {
	if b.base != "" {
		return figures{}, errNotRestarted
	}
	note := ""
	all := map[string][]float64{}
	_, err := b.compare("stalled, p99 in ms", 5, []string{"beside", "alone"}, func(kind string) (float64, error) {
		s, err := b.begin("hub")
		if err != nil {
			return 0, err
		}
		defer s.stop()
		healthy, err := newClient(s)
		if err != nil {
			return 0, err
		}
		defer healthy.close()
		if err := healthy.open(stalledStreams, 0); err != nil {
			return 0, err
		}
		mute, err := newClient(s)
		if err != nil {
			return 0, err
		}
		defer mute.close()
		mute.first, mute.receive = stalledStreams, stalledWindow
		if kind == "beside" {
			if err := mute.open(stalledStreams, 0); err != nil {
				return 0, err
			}
			if err := mute.settle(s.quiet()); err != nil {
				return 0, err
			}
		}
		if err := healthy.settle(s.quiet()); err != nil {
			return 0, err
		}
		p, stop, err := newPoster(s.addr.String())
		if err != nil {
			return 0, err
		}
		defer stop()
		before, err := heldBy(s)
		if err != nil {
			return 0, err
		}
		event, err := json.Marshal(map[string]any{
			"tenantId": s.tenant, "type": "load.test", "target": map[string]any{"kind": "tenant"},
			"payload": strings.Repeat("x", stalledPayload),
		})
		if err != nil {
			return 0, err
		}
		request := s.request("POST", "/v1/events", "application/json", event)
		sent := 0
		rounds := func(n int) error {
			for range n {
				sent++
				healthy.sentAt = time.Now()
				if err := publish(healthy, p, 1, sent, func(int) []byte { return request }); err != nil {
					return err
				}
			}
			return nil
		}
		if err := rounds(stalledFill); err != nil {
			return 0, err
		}
		healthy.waits = make([]time.Duration, 0, stalledRounds*stalledStreams)
		if err := rounds(stalledRounds); err != nil {
			return 0, err
		}
		slices.Sort(healthy.waits)
		p99 := healthy.waits[len(healthy.waits)*99/100]
		healthy.waits = nil
		if kind == "beside" {
			after, err := heldBy(s)
			if err != nil {
				return 0, err
			}
			if err := rounds(stalledCut); err != nil {
				return 0, err
			}
			left, err := s.connections(healthy)
			if err != nil {
				return 0, err
			}
			note = fmt.Sprintf("a stalled one costs %d KiB, kernel included; %d of %d were cut", (after-before)/stalledStreams>>10, 2*stalledStreams-left, stalledStreams)
		}
		figure := float64(p99) / float64(time.Millisecond)
		all[kind] = append(all[kind], figure)
		return figure, nil
	})
	if err != nil {
		return figures{}, err
	}
	median := func(figures []float64) *float64 { // the lowest of latencies says little
		slices.Sort(figures)
		return &figures[len(figures)/2]
	}
	return figures{median(all["beside"]), median(all["alone"]), "alone", note}, nil
}

// connections waits until the hub has no more than the healthy streams, as the
// last words of the others take their time, and returns how many it has.
func (s *server) connections(healthy *client) (count int, err error) {
	for end := time.Now().Add(20 * time.Second); ; {
		res, err := http.Get("http://" + s.host + "/v1/tenants/" + s.tenant + "/connections?limit=1")
		if err != nil {
			return 0, err
		}
		var list struct{ Count int }
		err = json.NewDecoder(res.Body).Decode(&list)
		res.Body.Close()
		if err != nil || list.Count <= len(healthy.streams) || time.Now().After(end) {
			return list.Count, err
		}
		if err := healthy.rest(50 * time.Millisecond); err != nil {
			return 0, err
		}
	}
}

// heldBy is the memory of a server and of the kernel's TCP sockets, in bytes.
func heldBy(s *server) (int, error) {
	own, err := pssOf(s.pids)
	if err != nil {
		return 0, err
	}
	sockets, err := os.ReadFile("/proc/net/sockstat")
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(sockets) {
		if fields := strings.Fields(string(line)); len(fields) > 10 && fields[0] == "TCP:" {
			pages, err := strconv.Atoi(fields[10])
			return own + pages*os.Getpagesize(), err
		}
	}
	return 0, fmt.Errorf("/proc/net/sockstat has no line for TCP")
}
