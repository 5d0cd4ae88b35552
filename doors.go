package main

import (
	"context"
	"errors"
	"net"
	"net/http"
)

// door is an address where the hub is called.
type door struct {
	net.Listener
	*http.Server
}

func (d door) url() string {
	if d.TLSConfig != nil {
		return "https://" + d.Listener.Addr().String()
	}
	return "http://" + d.Listener.Addr().String()
}

func (d door) serve() error {
	if d.TLSConfig != nil {
		return d.ServeTLS(d.Listener, "", "")
	}
	return d.Serve(d.Listener)
}

// doors are all of them.
type doors []door

// shutdown takes no more connections, and waits until all requests are answered or ctx
// ends.
func (all doors) shutdown(ctx context.Context) error {
	ended := make(chan error)
	for _, d := range all {
		go func() { ended <- d.Shutdown(ctx) }()
	}
	var errs []error
	for range all {
		errs = append(errs, <-ended)
	}
	return errors.Join(errs...)
}

// close ends all connections.
func (all doors) close() {
	for _, d := range all {
		d.Server.Close()
	}
}
