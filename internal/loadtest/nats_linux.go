//go:build linux

package main

import (
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
	deliveredBatch  = 100   // events of a request
	deliveredTimes  = 5     // a round
	sharedRounds    = 3     // after one that warms
	sharedTimes     = 3
)

// setup is how hubs stand beside the servers that keep their history.
type setup struct {
	name          string
	hubs, brokers int // as many replicas as brokers
}

const inMemory = "in memory"

var setups = []setup{
	{inMemory, 1, 0},
	{"one hub, one nats-server, R1", 1, 1},
	{"three hubs, one nats-server, R1", 3, 1},
	{"three hubs, three nats-servers, R3", 3, 3},
}

// load is what every setup is put under.
type load struct {
	name, unit, note string
	streams          int // of one tenant, spread over the hubs
	put              func(hubs []*server, streams int, timed timer) error
}

// timer measures a round, which says how much it did.
type timer func(round func() (int, error)) error

var loads = []load{
	{"acked", "events/s", "64 requests in flight", 0, acked(64)},
	{"acked", "events/s", "1 request in flight", 0, acked(1)},
	{"delivered", "deliveries/s", fmt.Sprintf("batches of %d, %d in flight", deliveredBatch, publishers), 1_000, delivered},
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
				if once.Do(func() { got, err = b.shared(l) }); err != nil {
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

// shared measures a load in every setup.
func (b *bench) shared(l load) (costs, error) {
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
		hubs, brokers, stop, err := b.together(setups[slices.Index(names, name)])
		defer stop()
		if err != nil {
			return 0, err
		}
		best := lowest{}
		err = l.put(hubs, min(b.streams, l.streams), func(round func() (int, error)) error {
			var n int
			var took time.Duration
			var ofBrokers float64
			ofHubs, err := allOf(hubs).spent(1, func() (err error) {
				ofBrokers, err = allOf(brokers).spent(1, func() (err error) {
					start := time.Now()
					n, err = round()
					took = time.Since(start)
					return err
				})
				return err
			})
			if err != nil || n == 0 {
				return err
			}
			best.add(name, micros(took, n))
			all.hubs.add(name, ofHubs/float64(n))
			if len(brokers) > 0 {
				all.brokers.add(name, ofBrokers/float64(n))
			}
			return nil
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

func addressesOf(servers []*server) (list []string) {
	for _, s := range servers {
		list = append(list, s.addr.String())
	}
	return list
}

// acked publishes to nobody, each request after the answer to the one before.
func acked(inFlight int) func([]*server, int, timer) error {
	return func(hubs []*server, _ int, timed timer) error {
		p, stop, err := dial(inFlight, addressesOf(hubs)...)
		if err != nil {
			return err
		}
		defer stop()
		request := hubs[0].toAll(0)
		if _, err := p.during(ackedTime/4, request); err != nil { // warm
			return err
		}
		for range sharedRounds {
			if err := timed(func() (int, error) { return p.during(ackedTime, request) }); err != nil {
				return err
			}
		}
		return nil
	}
}

// during sends a request over and over on all connections, for a time, and counts
// the answers.
func (p *poster) during(d time.Duration, request []byte) (int, error) {
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
	wg.Wait()
	return int(count.Load()), errors.Join(errs...)
}

// delivered publishes batches to streams that are spread over the hubs.
func delivered(hubs []*server, streams int, timed timer) error {
	c, err := newClient(hubs...)
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.open(streams, 0); err != nil {
		return err
	}
	if err := c.settle(hubs[0].quiet()); err != nil {
		return err
	}
	p, stop, err := dial(publishers, addressesOf(hubs)...)
	if err != nil {
		return err
	}
	defer stop()
	event := string(hubs[0].event(map[string]any{"kind": "tenant"}))
	body := `{"events":[` + strings.Repeat(event+",", deliveredBatch-1) + event + `]}`
	request := hubs[0].request("POST", "/v1/events/batch", "application/json", []byte(body))
	each := 0
	round := func() (int, error) {
		for range deliveredTimes {
			each += deliveredEvents
			if err := publish(c, p, deliveredEvents/deliveredBatch, each, func(int) []byte { return request }); err != nil {
				return 0, err
			}
		}
		return deliveredTimes * deliveredEvents * len(c.streams), nil
	}
	if _, err := round(); err != nil { // warm
		return err
	}
	for range sharedRounds {
		if err := timed(round); err != nil {
			return err
		}
	}
	return nil
}

// together starts what a setup is of; stop ends also what an error left.
func (b *bench) together(s setup) (hubs, brokers []*server, stop func(), err error) {
	var dir string
	stop = func() {
		for _, s := range slices.Concat(hubs, brokers) {
			s.stop()
		}
		os.RemoveAll(dir)
	}
	if dir, err = os.MkdirTemp(b.dir, "nats"); err != nil {
		return hubs, brokers, stop, err
	}
	routes, err := freeAddresses(s.brokers)
	if err != nil {
		return hubs, brokers, stop, err
	}
	var urls []string
	for i := range s.brokers {
		broker, err := b.nats(b.natsServer, dir, i, routes)
		if err != nil {
			return hubs, brokers, stop, err
		}
		brokers, urls = append(brokers, broker), append(urls, "nats://"+broker.host)
	}
	if err := led(urls); err != nil {
		return hubs, brokers, stop, err
	}
	b.tenants++
	for range s.hubs {
		hub, err := b.hub(b.binary, "REALTIME_PRESENCE_AUDIENCE=none",
			"REALTIME_NATS_URL="+strings.Join(urls, ","), fmt.Sprint("REALTIME_NATS_REPLICAS=", max(1, s.brokers)))
		if err != nil {
			return hubs, brokers, stop, err
		}
		hub.tenant = fmt.Sprintf("load%d-%d", os.Getpid(), b.tenants)
		hubs = append(hubs, hub)
	}
	return hubs, brokers, stop, nil
}

// led waits until the brokers have a leader: an election is not to be measured, and
// a request that comes before it is not answered.
func led(urls []string) error {
	if len(urls) == 0 {
		return nil
	}
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
