//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"realtimehub/internal/loadtest/reader"
)

// door is how the hub's clients open a stream.
type door struct {
	name, path string
	socket     bool   // a WebSocket
	hello      string // what a client says first
	ack        string // what it acknowledges with, unanswered; %q is a cursor
}

var doors = []door{
	{name: "sse", path: "/v1/stream"},
	{name: "websocket", path: "/v1/socket", socket: true, ack: `{"do":"ack","cursor":%q}`},
	{name: "signalr", path: "/signalr", socket: true, hello: "{\"protocol\":\"json\",\"version\":1}\x1e",
		ack: "{\"type\":1,\"target\":\"Ack\",\"arguments\":[%q]}\x1e"},
}

func doorOf(name string) (door, error) {
	for _, d := range doors {
		if d.name == name {
			return d, nil
		}
	}
	return door{}, fmt.Errorf("there is no door %q, only %s, %s and %s", name, doors[0].name, doors[1].name, doors[2].name)
}

// subscribe is the request for stream i.
func (s *server) subscribe(i int) []byte {
	path, socket := "/stream", s.socket()
	switch s.name {
	case "hub":
		path = fmt.Sprintf("%s?tenant=%s&profile=%s", s.door.path, s.tenant, profile(i))
		if s.acks {
			path += "&ack=true"
		}
		if s.cursor != "" {
			path += "&cursor=" + s.cursor
		}
	case "nchan":
		path = "/sub?id=" + strconv.Itoa(i) // reached alone and with all, as a hub's stream is
	case "centrifugo":
		path = "/connection/uni_websocket"
	}
	head := "Accept: text/event-stream\r\n"
	if socket {
		head = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	}
	return fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", path, s.host, head)
}

// socket tells whether a server's streams are WebSockets.
func (s *server) socket() bool {
	switch s.name {
	case "hub":
		return s.door.socket
	case "bare", "nchan":
		return false
	}
	return true
}

// hello is what the client of stream i says first on its WebSocket, if anything.
func (s *server) hello(i int) string {
	switch s.name {
	case "hub":
		return s.door.hello
	case "centrifugo":
		return fmt.Sprintf(`{"subs":{"all":{},"%d":{}}}`, i) // reached alone and with all, as a hub's stream is
	}
	return ""
}

// greeted tells whether a stream stands: some servers send no event of their own.
func (s *server) greeted(r *reader.Reader) bool {
	switch s.name {
	case "nchan", "gorilla", "coder":
		return r.Begun()
	}
	return r.Events > 0
}

// toAll is the request that reaches every stream; frame is how many bytes it is
// to be on the wire, where that is for us to say.
func (s *server) toAll(frame int) []byte {
	switch s.name {
	case "hub":
		return s.publish(map[string]any{"kind": "tenant"})
	case "nchan":
		return s.request("POST", "/pub?id=all", "text/plain", []byte(payload))
	case "centrifugo":
		body, err := json.Marshal(map[string]any{"channel": "all", "data": payload})
		if err != nil {
			panic(err) // of strings alone
		}
		return s.request("POST", "/api/publish", "application/json", body)
	case "bare":
		return s.request("POST", "/paced", "text/plain", frameOf(frame))
	}
	return s.request("POST", "/paced", "text/plain", textOf(frame))
}

// toOne is the request that reaches stream i.
func (s *server) toOne(i, frame int) []byte {
	if s.name == "hub" {
		return s.publish(toProfile(i))
	}
	return s.request("POST", "/one?i="+strconv.Itoa(i), "text/plain", frameOf(frame))
}

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
