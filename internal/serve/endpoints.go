package serve

import (
	"context"
	"errors"
	"net"
	"net/http"
)

// Endpoint is an address where the hub is called.
type Endpoint struct {
	net.Listener
	*http.Server
}

func (d Endpoint) URL() string {
	if d.TLSConfig != nil {
		return "https://" + d.Listener.Addr().String()
	}
	return "http://" + d.Listener.Addr().String()
}

func (d Endpoint) Serve() error {
	if d.TLSConfig != nil {
		return d.ServeTLS(d.Listener, "", "")
	}
	return d.Serve(d.Listener)
}

// Endpoints are all of them.
type Endpoints []Endpoint

// Shutdown takes no more connections, and waits until all requests are answered or ctx
// ends.
func (all Endpoints) Shutdown(ctx context.Context) error {
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

// Close ends all connections.
func (all Endpoints) Close() {
	for _, d := range all {
		d.Server.Close()
	}
}
