package folder

import (
	"crypto/subtle"
	"encoding/json"
	"errors"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// A folder that was lost comes back as a new one, beside which the old one stays a member:
// what it kept is kept by one fewer until it is removed. Peers names all hubs, so a member
// that cannot be reached while so many others are there is one that was replaced.
const (
	replacedEvery = 5 * time.Second // how often the leader looks; tests in this package do not wait so long
	replacedAfter = 3               // looks in turn that find the same, before it acts
)

// replaced are the members that were replaced by others, where this server leads them.
func (f *Folder) replaced(r *running) (ids []string) {
	if f.cfg.Peers == nil || !r.server.JetStreamIsLeader() {
		return nil
	}
	info, err := r.server.Jsz(&server.JSzOptions{})
	if err != nil || info.Meta == nil {
		return nil
	}
	routes, err := r.server.Routez(&server.RoutezOptions{})
	if err != nil {
		return nil
	}
	reached := map[string]bool{}
	for _, route := range routes.Routes {
		reached[route.RemoteName] = true
	}
	return replacedAmong(info.Meta.Replicas, reached, len(f.cfg.Peers.Addrs))
}

// replacedAmong are the ids of the other members that were replaced, as their leader sees them,
// where reached are the names of those with a connection to it, and hubs is how many there are
// to be. Whether a member is current does not say whether it is there: to nats-server one that
// was lost is current for 10 s more, and its successor is not until it has caught up. Who is
// removed by mistake is not let in again for 5 minutes.
func replacedAmong(others []*server.PeerInfo, reached map[string]bool, hubs int) (ids []string) {
	there := 1
	for _, p := range others {
		switch {
		case !reached[p.Name]:
			ids = append(ids, p.Peer)
		case p.Current:
			there++
		}
	}
	if there < hubs {
		return nil
	}
	return ids
}

// governor is the name of a client that changes which servers are members.
const governor = "governor"

// doorkeeper lets in who knows the folder's word.
type doorkeeper struct {
	word   string
	server *server.Server // whose system account removes members
}

// Check implements server.Authentication.
func (d *doorkeeper) Check(c server.ClientAuthentication) bool {
	said := c.GetOpts()
	if subtle.ConstantTimeCompare([]byte(said.Token), []byte(d.word)) != 1 {
		return false
	}
	if said.Name == governor {
		c.RegisterUser(&server.User{Account: d.server.SystemAccount()})
	}
	return true
}

// forget removes a member, so that another keeps what it kept.
func (f *Folder) forget(r *running, id string) error {
	nc, err := nats.Connect("", nats.InProcessServer(r.server), nats.Token(f.about.Word), nats.Name(governor), nats.NoReconnect())
	if err != nil {
		return err
	}
	defer nc.Close()
	question, _ := json.Marshal(server.JSApiMetaServerRemoveRequest{Peer: id})
	msg, err := nc.Request(server.JSApiRemoveServer, question, 5*time.Second)
	if err != nil {
		return err
	}
	var answer server.JSApiMetaServerRemoveResponse
	if err := json.Unmarshal(msg.Data, &answer); err != nil {
		return err
	}
	if answer.Error != nil {
		return errors.New(answer.Error.Description)
	}
	return nil
}

// succeed looks for members that were replaced until end, and removes them.
func (f *Folder) succeed() {
	ticker := time.NewTicker(f.replacedEvery)
	defer ticker.Stop()
	found := map[string]int{} // how often in turn
	for {
		select {
		case <-f.end:
			return
		case <-ticker.C:
		}
		r, again := f.current(), map[string]int{}
		if r != nil {
			for _, id := range f.replaced(r) {
				again[id] = found[id] + 1
			}
		}
		found = again
		for id, looks := range found {
			if looks < replacedAfter {
				continue
			}
			if err := f.forget(r, id); err != nil {
				f.cfg.Logger.Warn("a hub that was replaced cannot be removed yet", "member", id, "err", err)
				continue
			}
			f.cfg.Logger.Info("a hub that was replaced is removed: others keep what it kept", "member", id)
		}
	}
}
