package settings

import (
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"realtimehub/internal/access"
)

// fewestPeers is how many hubs keep everything when any one of them is away: two cannot say
// which of them it is.
const fewestPeers = 3

// checkFolder checks what a hub keeps in a folder, alone or with others.
func (c *Config) checkFolder(f *faults) {
	f.add(c.Data != "" && c.NATSURL != "", "DATA", "and %sNATS_URL exclude each other: everything is kept in the folder, or by NATS", Prefix)
	if len(c.Peers) == 0 {
		return
	}
	f.add(c.Data == "", "PEERS", "needs %sDATA, the folder in which this hub keeps its part", Prefix)
	f.add(len(c.Peers) < fewestPeers, "PEERS", "names fewer than %d hubs: name all of them, this one too. Two hubs could not tell which of them is away", fewestPeers)
	for i, addr := range c.Peers {
		c.Peers[i] = strings.TrimSpace(addr)
		host, err := splitPeer(c.Peers[i])
		f.add(err != nil || host == "", "PEERS", "names %q, which is not host:port", c.Peers[i])
		f.add(slices.Contains(c.Peers[:i], c.Peers[i]), "PEERS", "names %s twice", c.Peers[i])
	}
	host, err := splitPeer(c.PeersAddr)
	f.add(err != nil, "PEERS_ADDR", "is %q, and must be host:port", c.PeersAddr)
	f.add(err == nil && c.PeersSecret == "" && !access.IsLoopback(host), "PEERS_SECRET",
		"is not set. %[1]sPEERS_ADDR is %[2]q, which can be reached from other machines, and without a secret anybody there could read and change everything; set it to the same random text on all hubs, or listen on 127.0.0.1", Prefix, c.PeersAddr)
	f.add((c.PeersCert == "") != (c.PeersKey == ""), "PEERS_CERT", "must be set together with %sPEERS_KEY", Prefix)
	f.add(c.PeersCA != "" && c.PeersCert == "", "PEERS_CA", "needs %sPEERS_CERT: hubs show each other certificates", Prefix)
}

// shortest is the shortest time that JetStream takes for a stream's age and its window of ids.
const shortest = 100 * time.Millisecond

// checkStored checks what a store would refuse once it is there, without a setting's name.
func (c *Config) checkStored(f *faults) {
	if c.NATSURL == "" && c.Data == "" {
		return
	}
	f.add(c.HistoryTTL > 0 && c.HistoryTTL < c.DedupeWindow, "HISTORY_TTL", "is %v, less than %sDEDUPE_WINDOW, which the store refuses", c.HistoryTTL, Prefix)
	f.add(c.HistoryTTL > 0 && c.HistoryTTL < shortest, "HISTORY_TTL", "is %v, which the store refuses: it must be 0, or %v at least", c.HistoryTTL, shortest)
	f.add(c.DedupeWindow > 0 && c.DedupeWindow < shortest, "DEDUPE_WINDOW", "is %v, which the store refuses: it must be 0, or %v at least", c.DedupeWindow, shortest)
}

// splitPeer is the host of an address that has a port's number: peers have to know it.
func splitPeer(addr string) (host string, err error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err == nil && n == 0 {
		err = errors.New("0 is any port")
	}
	return host, err
}

// Disk is how many bytes all histories may take at the broker; 0: no limit.
func (c *Config) Disk() int64 {
	switch {
	case c.NATSHistoryBytes != nil:
		return *c.NATSHistoryBytes
	case c.HistoryBytes == 0:
		return 0
	}
	return max(1<<30, c.HistoryBytes)
}

// Replicas is how many servers keep everything: NATS servers, or those in the folders of hubs.
func (c *Config) Replicas() int {
	switch {
	case len(c.Peers) > 0:
		return fewestPeers
	case c.Data != "":
		return 1
	}
	return c.NATSReplicas
}

// Sync is how much of what was acknowledged last a power cut may take; 0: nothing, as
// each write is waited for.
type Sync time.Duration

// UnmarshalText implements encoding.TextUnmarshaler: a duration, or "always".
func (s *Sync) UnmarshalText(text []byte) error {
	if string(text) == "always" {
		*s = 0
		return nil
	}
	d, err := time.ParseDuration(string(text))
	if err != nil || d < time.Millisecond || d > time.Hour {
		return errors.New(`is not "always" or a duration from 1ms to 1h`)
	}
	*s = Sync(d)
	return nil
}
