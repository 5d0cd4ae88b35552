package serve

import (
	"context"
	"errors"
	"net"
	"net/http"

	"realtimehub/internal/tcp"
)

// Endpoint is an address where the hub is called.
type Endpoint struct {
	Listener net.Listener
	Server   *http.Server
}

// URL is where the endpoint is reached, without a path.
func (e Endpoint) URL() string {
	if e.Server.TLSConfig != nil {
		return "https://" + e.Listener.Addr().String()
	}
	return "http://" + e.Listener.Addr().String()
}

// Serve answers until the endpoint is shut down or closed, as http.Server.Serve.
func (e Endpoint) Serve() error {
	if e.Server.TLSConfig != nil {
		return e.Server.ServeTLS(tcp.Secure(e.Listener), "", "")
	}
	return e.Server.Serve(e.Listener)
}

// Endpoints are all of them.
type Endpoints []Endpoint

// Shutdown takes no more connections, and waits until all requests are answered or ctx
// ends.
func (e Endpoints) Shutdown(ctx context.Context) error {
	ended := make(chan error)
	for _, one := range e {
		go func() { ended <- one.Server.Shutdown(ctx) }()
	}
	var errs []error
	for range e {
		errs = append(errs, <-ended)
	}
	return errors.Join(errs...)
}

// Close ends all connections.
func (e Endpoints) Close() {
	for _, one := range e {
		one.Server.Close()
	}
}
