//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"strconv"
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
func (s *server) greeted(r *reader) bool {
	switch s.name {
	case "nchan", "gorilla", "coder":
		return r.begun()
	}
	return r.events > 0
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
