// Libraries are servers of WebSockets as the chat examples of two Go libraries have them:
// a goroutine that reads and one that writes for each client, and a queue between. The load
// tool measures them beside the hub.
package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	coder "github.com/coder/websocket"
	gorilla "github.com/gorilla/websocket"
)

const (
	queue     = 256 // messages to a client that are not written yet
	writeTime = 10 * time.Second
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: libraries gorilla|coder ADDRESS")
		os.Exit(2)
	}
	c := chat{clients: map[chan []byte]bool{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /stream", func(w http.ResponseWriter, r *http.Request) {
		if os.Args[1] == "gorilla" {
			if s, err := openGorilla(w, r); err == nil {
				go c.serve(s)
			}
		} else if s, err := openCoder(w, r); err == nil {
			c.serve(s)
		}
	})
	mux.HandleFunc("POST /paced", c.toAll)
	fmt.Fprintln(os.Stderr, http.ListenAndServe(os.Args[2], mux))
	os.Exit(1)
}

// chat is a room that all are in.
type chat struct {
	mu      sync.Mutex
	clients map[chan []byte]bool // guarded by mu
}

// socket is a client's.
type socket struct {
	write func(message []byte) error
	left  <-chan struct{} // closed once the client has
	close func()
}

func (c *chat) serve(s socket) {
	defer s.close()
	messages := make(chan []byte, queue)
	c.mu.Lock()
	c.clients[messages] = true
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.clients, messages)
	}()
	for {
		select {
		case message := <-messages:
			if s.write(message) != nil {
				return
			}
		case <-s.left:
			return
		}
	}
}

// toAll sends the body to every client.
func (c *chat) toAll(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	full := 0
	for client := range c.clients {
		select {
		case client <- body:
		default:
			full++
		}
	}
	c.mu.Unlock()
	if full > 0 {
		http.Error(w, fmt.Sprint(full, " clients do not read"), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusAccepted)
	io.WriteString(w, `{}`)
}

func openGorilla(w http.ResponseWriter, r *http.Request) (socket, error) {
	upgrader := gorilla.Upgrader{ReadBufferSize: 1024, WriteBufferSize: 1024}
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return socket{}, err
	}
	left := make(chan struct{})
	go func() {
		defer close(left)
		for {
			if _, _, err := conn.ReadMessage(); err != nil {
				return
			}
		}
	}()
	write := func(message []byte) error {
		conn.SetWriteDeadline(time.Now().Add(writeTime))
		return conn.WriteMessage(gorilla.TextMessage, message)
	}
	return socket{write: write, left: left, close: func() { conn.Close() }}, nil
}

func openCoder(w http.ResponseWriter, r *http.Request) (socket, error) {
	conn, err := coder.Accept(w, r, nil)
	if err != nil {
		return socket{}, err
	}
	ctx := conn.CloseRead(context.Background())
	write := func(message []byte) error {
		ctx, cancel := context.WithTimeout(ctx, writeTime)
		defer cancel()
		return conn.Write(ctx, coder.MessageText, message)
	}
	return socket{write: write, left: ctx.Done(), close: func() { conn.CloseNow() }}, nil
}
