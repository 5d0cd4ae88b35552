package folder

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
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
	case !r.mayLook(time.Now()) || !f.hasAll(r):
		return errBehind
	}
	r.whole.Store(true)
	return nil
}

// mayLook says that nobody has looked for a second: a question to all others is dear, and
// whoever asks for readiness may ask often.
func (r *running) mayLook(now time.Time) bool {
	last := r.looked.Load()
	return now.UnixNano()-last >= int64(time.Second) && r.looked.CompareAndSwap(last, now.UnixNano())
}

// hasAll asks those who lead the streams whether this server has its part of what they keep. One
// in the place of a folder that was lost has none at first, until the lost one is no member any
// more.
func (f *Folder) hasAll(r *running) bool {
	ctx, cancel := context.WithTimeout(context.Background(), lookEvery)
	defer cancel()
	nc, err := nats.Connect("", f.Connect(), nats.NoReconnect())
	if err != nil {
		return false
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return false
	}
	list := js.ListStreams(ctx)
	there := map[string]*jetstream.StreamInfo{}
	for stream := range list.Info() {
		there[stream.Config.Name] = stream
	}
	here := r.lasts()
	for name, stream := range there {
		if last, kept := here[name]; f.shares(stream) && (!kept || last < stream.State.LastSeq) {
			return false
		}
	}
	return list.Err() == nil && len(there) > 0
}

// lasts are the last places that this server has of its streams.
func (r *running) lasts() map[string]uint64 {
	list := map[string]uint64{}
	info, err := r.server.Jsz(&server.JSzOptions{Accounts: true, Streams: true})
	if err != nil {
		return list
	}
	for _, account := range info.AccountDetails {
		for _, stream := range account.Streams {
			list[stream.Name] = stream.State.LastSeq
		}
	}
	return list
}

// shares says whether this server is to have what a stream has: among so few, all have all that
// as many keep.
func (f *Folder) shares(stream *jetstream.StreamInfo) bool {
	if len(f.cfg.Peers.Addrs) <= copies && stream.Config.Replicas >= copies {
		return true
	}
	c := stream.Cluster
	return c != nil && (c.Leader == f.about.ID ||
		slices.ContainsFunc(c.Replicas, func(r *jetstream.PeerInfo) bool { return r.Name == f.about.ID }))
}

// copies is how many of several hubs keep each thing.
const copies = 3
