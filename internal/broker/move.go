package broker

import (
	"context"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"realtimehub/internal/history"
)

// destination is where the connection moves.
type destination struct {
	url   string
	until time.Time
}

// opening moves to one server after the other until what is kept is open: the first one may
// be cut off from the others, and nothing tells yet which of them can do something.
func (w *watch) opening(nc *nats.Conn, opened <-chan struct{}) {
	ticker := time.NewTicker(openTime)
	defer ticker.Stop()
	for {
		select {
		case <-opened:
			return
		case <-ticker.C:
		}
		pool := nc.ServerPool()
		here := slices.IndexFunc(pool, func(s nats.Server) bool { return s.URL.String() == nc.ConnectedUrl() })
		if !nc.IsConnected() || len(pool) < 2 {
			continue
		}
		next := pool[(here+1)%len(pool)].URL.String()
		w.logger.Warn("store: this server has not done what the hub needs at its start: trying another", "from", nc.ConnectedServerName())
		w.faults.Add(history.FaultMoved, 1)
		w.to.Store(&destination{next, time.Now().Add(moveTime)})
		nc.ForceReconnect()
	}
}

// servers are the URLs of those that are known.
func (w *watch) servers() (urls []string) {
	for _, s := range w.nc.ServerPool() {
		urls = append(urls, s.URL.String())
	}
	return urls
}

// move moves to a server through which the history can be changed, if there is one. The
// one that is left answers all that it can by itself, as one does that is cut off from the
// others, so that nothing else would end the connection.
func (w *watch) move() {
	pool, here, from := w.servers(), w.nc.ConnectedServerId(), w.nc.ConnectedServerName()
	all := slices.Compact(slices.Sorted(slices.Values(slices.Concat(pool, w.known))))
	for _, url := range all {
		name, able := w.able(url, here)
		if w.closing.Load() {
			return
		}
		if !able {
			continue
		}
		w.logger.Warn("store: the history cannot be changed through this server: moving to one through which it can", "from", from, "to", name)
		w.faults.Add(history.FaultMoved, 1)
		if !slices.Contains(pool, url) { // who is cut off has had it forgotten
			w.nc.SetServerPool(all)
		}
		w.moved = time.Now()
		w.to.Store(&destination{url, w.moved.Add(moveTime)})
		w.nc.ForceReconnect()
		return
	}
}

// able says whether the history can be changed through a server, if it is not the one here.
func (w *watch) able(url, here string) (name string, able bool) {
	nc, err := nats.Connect(url, w.access...)
	if err != nil {
		return "", false
	}
	defer nc.Close()
	ctx, cancel := context.WithTimeout(context.Background(), dialTime)
	defer cancel()
	return nc.ConnectedServerName(), nc.ConnectedServerId() != here && w.journal.TryThrough(ctx, nc) == nil
}
