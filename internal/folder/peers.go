package folder

import (
	"crypto/tls"
	"errors"
	"math"
	"net"
	"net/url"
	"strconv"

	"github.com/nats-io/nats-server/v2/server"
)

// Peers are folders of other hubs, with which this one is a cluster: what is kept is kept by
// up to three of them, and one of three may be lost.
type Peers struct {
	Name   string      // of the cluster
	Listen string      // host:port, where the others call
	Addrs  []string    // host:port of all, which may have this one's among them
	Secret string      // that all of them know; empty: none is asked for
	TLS    *tls.Config // nil: they speak in the clear
}

// apply has a server be one of its peers. A server that listens for no client does not listen
// for peers either (nats-server 2.15: StartRouting waits for the clients' port), so it does on
// loopback, for who knows the folder's word.
func (p *Peers) apply(o *server.Options) error {
	host, port, err := net.SplitHostPort(p.Listen)
	if err != nil {
		return err
	}
	if o.Cluster.Port, err = strconv.Atoi(port); err != nil {
		return err
	}
	o.DontListen, o.Host, o.Port = false, "127.0.0.1", server.RANDOM_PORT
	o.Cluster.Name, o.Cluster.Host, o.Cluster.NoAdvertise = p.Name, host, true
	o.Cluster.TLSConfig, o.Cluster.TLSTimeout = p.TLS, 5
	for _, addr := range p.Addrs {
		route := &url.URL{Scheme: "nats", Host: addr}
		if p.Secret != "" {
			route.User = url.UserPassword(p.Name, p.Secret)
		}
		o.Routes = append(o.Routes, route)
	}
	if p.Secret != "" {
		o.Cluster.Username, o.Cluster.Password = p.Name, p.Secret
	}
	return nil
}

// errBehind: two of three hubs are not enough while this one is behind, if another goes.
var errBehind = errors.New("this hub is still taking over from the others what it missed: no other may be stopped yet")

// Whole says why the folder has not all that it keeps with its peers, once after each start:
// later it may be behind by what is under way.
func (f *Folder) Whole() error {
	r := f.current()
	switch {
	case r == nil:
		return errStopped
	case f.cfg.Peers == nil || r.whole.Load():
		return nil
	case r.server.Healthz(nil).Error != "", f.members(r) > len(f.cfg.Peers.Addrs):
		return errBehind
	}
	r.whole.Store(true)
	return nil
}

// members is how many servers keep things together: also one whose folder was lost, until the
// one in its place has replaced it.
func (f *Folder) members(r *running) int {
	info, err := r.server.Jsz(&server.JSzOptions{})
	if err != nil || info.Meta == nil {
		return math.MaxInt
	}
	return info.Meta.Size
}
