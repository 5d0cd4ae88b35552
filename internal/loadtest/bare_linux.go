//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"syscall"
)

// bareVariable holds where to listen, in the environment of the process that is
// the bare server.
const bareVariable = "REALTIME_LOADTEST_BARE"

const bareHead = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n" +
	"d\r\ndata: ready\n\n\r\n"

// bareServer is the least that a delivery can cost in Go: one write(2) a
// stream, with nothing decided in between.
type bareServer struct {
	mu    sync.RWMutex
	files []*os.File // kept, or their finalizers would close them
	fds   []int      // in order of arrival
}

func serveBare(addr string) error {
	config := net.ListenConfig{KeepAlive: -1}
	listener, err := config.Listen(context.Background(), "tcp", addr)
	if err != nil {
		return err
	}
	var s bareServer
	mux := http.NewServeMux()
	mux.HandleFunc("GET /stream", s.stream)
	mux.HandleFunc("POST /paced", s.paced)
	mux.HandleFunc("POST /one", s.one)
	return http.Serve(listener, mux)
}

// stream takes the descriptor out of the hands of net and net/http.
func (s *bareServer) stream(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer conn.Close()
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	file, err := tcp.File()
	if err != nil {
		return
	}
	fd := int(file.Fd())
	if err := syscall.SetNonblock(fd, false); err != nil {
		file.Close()
		return
	}
	s.mu.Lock()
	s.files, s.fds = append(s.files, file), append(s.fds, fd)
	s.mu.Unlock()
	io.WriteString(file, bareHead)
}

// paced writes the body to every stream.
func (s *bareServer) paced(w http.ResponseWriter, r *http.Request) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	write(w, r, s.fds)
}

// one writes the body to one stream.
func (s *bareServer) one(w http.ResponseWriter, r *http.Request) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	i, err := strconv.Atoi(r.URL.Query().Get("i"))
	if err != nil || i < 0 || i >= len(s.fds) {
		http.Error(w, fmt.Sprintf("there are %d streams", len(s.fds)), http.StatusNotFound)
		return
	}
	write(w, r, s.fds[i:i+1])
}

func write(w http.ResponseWriter, r *http.Request, fds []int) {
	body, err := io.ReadAll(r.Body)
	for _, fd := range fds {
		if err == nil {
			_, err = syscall.Write(fd, body)
		}
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	io.WriteString(w, `{"connections":1}`)
}
