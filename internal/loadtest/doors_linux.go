//go:build linux

package main

import (
	"fmt"
	"strings"
	"sync"
)

// doorTimes is how often each door has its turn.
const doorTimes = 3

// peers are servers of WebSockets, by the names under which they are known.
var peers = map[string]string{"gorilla": "gorilla/websocket", "coder": "coder/websocket", "centrifugo": "Centrifugo"}

// doorFigure is something that is measured of each door, in turn, and of other servers.
type doorFigure struct {
	unit, asked string // of a door
	times       int
	measure     func(b *bench, name string, costs lowest) (float64, error)
	more        bool // the larger figure is the better one: a rate, of what takes so many µs
}

var doorFigures = []doorFigure{
	{"bytes a stream", "≤ 2200 bytes", 1, func(b *bench, name string, _ lowest) (float64, error) { return b.held(name) }, false},
	{"CPU µs a delivery, paced", "≤ 1.15 × sse", doorTimes, func(b *bench, name string, _ lowest) (float64, error) { return b.pace(name) }, false},
	{"deliveries/s, burst", "≥ 0.9 × sse", doorTimes, func(b *bench, name string, costs lowest) (float64, error) { return b.bursts(name, publishers, costs) }, true},
}

// doorRows compare the doors that are WebSockets with Server-Sent Events. The first of a figure
// that is asked for measures all of it.
func doorRows() (list []row) {
	for _, f := range doorFigures {
		var once sync.Once
		var got, costs lowest
		var note string
		var err error
		for _, d := range doors {
			if !d.socket {
				continue
			}
			list = append(list, row{"doors", f.unit + ", " + d.name, f.asked, func(b *bench) (figures, error) {
				once.Do(func() { got, costs, note, err = b.throughDoors(f) })
				if err != nil {
					return figures{}, err
				}
				row := figures{got.get(d.name), got.get("sse"), "sse", note}
				if f.more {
					row.hub, row.reference = rate(row.hub), rate(row.reference)
					row.note = fmt.Sprintf("CPU µs a delivery: %s %s, sse %s; %s", d.name, figure(costs.get(d.name)), figure(costs.get("sse")), note)
				}
				return row, nil
			}})
		}
	}
	return list
}

// throughDoors measures something, and says what it is of other servers, which take long and so
// have one turn.
func (b *bench) throughDoors(f doorFigure) (got, costs lowest, note string, err error) {
	var names []string
	for _, d := range doors {
		names = append(names, d.name)
	}
	costs = lowest{}
	measure := func(name string) (float64, error) { return f.measure(b, name, costs) }
	got, err = b.compare("doors, "+f.unit, f.times, names, measure)
	if err != nil {
		return nil, nil, "", err
	}
	others, missing := beside("gorilla", "coder", "centrifugo")
	var notes []string
	for _, name := range others[1:] {
		said := ""
		if theirs, err := b.compare("doors, "+f.unit, 1, []string{name}, measure); err != nil {
			said = "failed: " + err.Error()
		} else if f.more {
			said = figure(rate(theirs.get(name)))
		} else {
			said = figure(theirs.get(name))
		}
		notes = append(notes, peers[name]+" "+said)
	}
	if missing != "" {
		notes = append(notes, missing)
	}
	return got, costs, strings.Join(notes, ", "), nil
}
