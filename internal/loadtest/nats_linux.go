//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	ackedTime       = 2 * time.Second
	deliveredEvents = 1_000 // until all are awaited: less than a stream may owe
	deliveredTimes  = 5     // a round
	bulk            = 100   // events of a request
	sharedRounds    = 2     // after one that warms
	sharedTimes     = 3
)

// setup is how hubs stand beside the servers that keep their history.
type setup struct {
	name          string
	hubs, brokers int  // as many replicas as brokers
	folder        bool // the hub keeps all in one
}

const inMemory = "in memory"

var setups = []setup{
	{inMemory, 1, 0, false},
	{"one hub, one nats-server, R1", 1, 1, false},
	{"three hubs, one nats-server, R1", 3, 1, false},
	{"three hubs, three nats-servers, R3", 3, 3, false},
}

// load is what every setup is put under.
type load struct {
	name, unit, note string
	streams          int // of one tenant, spread over the hubs
	put              func(hubs []*server, streams int, repeat rounds) error
}

// rounds repeats a round, which says how much it did, and measures it.
type rounds func(round func() (int, error)) error

var toTenant = map[string]any{"kind": "tenant"}

var loads = []load{
	{"acked", "events/s", "64 requests in flight", 0, acked(64)},
	{"acked", "events/s", "64 requests in flight", 3, acked(64)}, // answered once they are owed it
	{"acked", "events/s", "1 request in flight", 0, acked(1)},
	{"delivered", "deliveries/s", fmt.Sprintf("batches of %d, %d in flight", bulk, publishers), 1_000, delivered(batchOf)},
	{"delivered", "deliveries/s", fmt.Sprintf("NDJSON, %d lines, %d in flight", bulk, publishers), 1_000, delivered(linesOf)},
}

// costs are of one event or delivery in each setup, in µs.
type costs struct{ took, hubs, brokers lowest }

// natsRows are the rows of -nats: of each load one a setup, beside the hub in
// memory. The first that is asked for measures all of its load.
func natsRows() (list []row) {
	for _, l := range loads {
		var once sync.Once
		var got costs
		var err error
		for _, s := range setups[1:] {
			list = append(list, row{l.name, l.unit, "–", func(b *bench) (figures, error) {
				if once.Do(func() { got, err = b.shared(l, setups) }); err != nil {
					return figures{}, err
				}
				note := fmt.Sprintf("%s; %s, %d streams; CPU µs each: hubs %s, brokers %s, in memory %s; all servers share one core; sync_interval 2m (default)",
					s.name, l.note, min(b.streams, l.streams), figure(got.hubs.get(s.name)), figure(got.brokers.get(s.name)), figure(got.hubs.get(inMemory)))
				return figures{new(1e6 / got.took[s.name]), new(1e6 / got.took[inMemory]), inMemory, note}, nil
			}})
		}
	}
	return list
}

// shared measures a load in some setups.
func (b *bench) shared(l load, setups []setup) (costs, error) {
	if b.base != "" {
		return costs{}, errNotRestarted
	}
	all := costs{hubs: lowest{}, brokers: lowest{}}
	var names []string
	for _, s := range setups {
		names = append(names, s.name)
	}
	var err error
	all.took, err = b.compare(l.name+", "+l.note+", µs each", sharedTimes, names, func(name string) (float64, error) {
		var g group
		defer g.stop()
		if err := g.start(b, setups[slices.Index(names, name)]); err != nil {
			return 0, err
		}
		best := lowest{}
		err := l.put(g.hubs, min(b.streams, l.streams), func(round func() (int, error)) error {
			_, err := round() // warm
			for i := 0; i < sharedRounds && err == nil; i++ {
				var n int
				var took time.Duration
				var ofHubs, ofBrokers float64
				ofHubs, err = allOf(g.hubs).spent(1, func() (err error) {
					ofBrokers, err = allOf(g.brokers).spent(1, func() (err error) {
						start := time.Now()
						n, err = round()
						took = time.Since(start)
						return err
					})
					return err
				})
				best.add(name, micros(took, n))
				all.hubs.add(name, ofHubs/float64(n))
				all.brokers.add(name, ofBrokers/float64(n))
			}
			return err
		})
		return best[name], err
	})
	return all, err
}

// allOf are servers as one, to ask what they spend.
func allOf(servers []*server) *server {
	all := &server{}
	for _, s := range servers {
		all.pids = append(all.pids, s.pids...)
	}
	return all
}

// acked publishes events, each after the answer to the one before, and counts the
// answers.
func acked(inFlight int) func([]*server, int, rounds) error {
	return func(hubs []*server, streams int, repeat rounds) error {
		return posted(hubs, streams, inFlight, func(c *client, p *poster) error {
			request := hubs[0].publish(toTenant)
			return repeat(func() (int, error) { return p.during(ackedTime, c, request) })
		})
	}
}

// during sends a request over and over on all connections, for a time, while a
// client reads, and counts the answers.
func (p *poster) during(d time.Duration, c *client, request []byte) (int, error) {
	var count atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, len(p.conns))
	end := time.Now().Add(d)
	for at, conn := range p.conns {
		wg.Go(func() {
			for errs[at] == nil && time.Now().Before(end) {
				errs[at] = roundTrip(conn, request)
				count.Add(1)
			}
		})
	}
	err := c.rest(d)
	wg.Wait()
	return int(count.Load()), errors.Join(append(errs, err)...)
}

// delivered publishes many events a request, and counts what the streams get.
func delivered(requestOf func(*server) []byte) func([]*server, int, rounds) error {
	return func(hubs []*server, streams int, repeat rounds) error {
		return posted(hubs, streams, publishers, func(c *client, p *poster) error {
			request, each := requestOf(hubs[0]), 0
			return repeat(func() (int, error) {
				for range deliveredTimes {
					each += deliveredEvents
					if err := publish(c, p, deliveredEvents/bulk, each, func(int) []byte { return request }); err != nil {
						return 0, err
					}
				}
				return deliveredTimes * deliveredEvents * streams, nil
			})
		})
	}
}

func batchOf(s *server) []byte {
	events := bytes.Join(slices.Repeat([][]byte{s.event(toTenant)}, bulk), []byte(","))
	return s.request("POST", "/v1/events/batch", "application/json", fmt.Appendf(nil, `{"events":[%s]}`, events))
}

func linesOf(s *server) []byte {
	return s.request("POST", "/v1/events", "application/x-ndjson", bytes.Repeat(append(s.event(toTenant), '\n'), bulk))
}

// posted opens streams and connections to publish over, spread over the hubs.
func posted(hubs []*server, streams, inFlight int, do func(*client, *poster) error) error {
	c, err := newClient(hubs...)
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.open(streams, 0); err != nil {
		return err
	}
	if err := c.settle(500 * time.Millisecond); err != nil { // nobody is told of presence
		return err
	}
	var addrs []string
	for _, hub := range hubs {
		addrs = append(addrs, hub.addr.String())
	}
	p, stop, err := dial(inFlight, addrs...)
	if err != nil {
		return err
	}
	defer stop()
	return do(c, p)
}

// group is what a setup is of.
type group struct {
	hubs, brokers []*server
	dir           string // the brokers'
}

// stop ends what was started.
func (g *group) stop() {
	for _, s := range slices.Concat(g.hubs, g.brokers) {
		s.stop()
	}
	os.RemoveAll(g.dir)
}

func (g *group) start(b *bench, s setup) (err error) {
	if g.dir, err = os.MkdirTemp(b.dir, "nats"); err != nil {
		return err
	}
	routes, err := freeAddresses(s.brokers)
	if err != nil {
		return err
	}
	var urls []string
	for i := range s.brokers {
		broker, err := b.nats(b.natsServer, g.dir, i, routes)
		if err != nil {
			return err
		}
		g.brokers, urls = append(g.brokers, broker), append(urls, "nats://"+broker.host)
	}
	if s.brokers > 0 {
		if err := led(urls); err != nil {
			return err
		}
	}
	b.tenants++
	settings := []string{"REALTIME_PRESENCE_AUDIENCE=none", "REALTIME_NATS_URL=" + strings.Join(urls, ","), fmt.Sprint("REALTIME_NATS_REPLICAS=", max(1, s.brokers))}
	if s.folder {
		settings = append(settings, "REALTIME_DATA="+g.dir)
	}
	for range s.hubs {
		hub, err := b.hub(b.binary, settings...)
		if err != nil {
			return err
		}
		hub.tenant = fmt.Sprintf("load%d-%d", os.Getpid(), b.tenants)
		g.hubs = append(g.hubs, hub)
	}
	return nil
}

// led waits until the brokers have a leader: an election is not to be measured, and
// a request that comes before it is not answered.
func led(urls []string) error {
	nc, err := nats.Connect(strings.Join(urls, ","))
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_, err := js.AccountInfo(ctx)
		cancel()
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}

// freeAddresses are as many as nobody listens on.
func freeAddresses(n int) (list []string, err error) {
	for range n {
		free, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer free.Close() // all together, or one could come twice
		list = append(list, "nats://"+free.Addr().String())
	}
	return list, nil
}
