package main

import (
	"context"
	"flag"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/access"
	"realtimehub/internal/allowance"
	"realtimehub/internal/broker"
	"realtimehub/internal/cluster"
	"realtimehub/internal/contracttest"
	"realtimehub/internal/delivery"
	"realtimehub/internal/history"
	"realtimehub/internal/hubtest"
	"realtimehub/internal/natstest"
	"realtimehub/internal/plan"
	"realtimehub/internal/room"
	"realtimehub/internal/settings"
	"realtimehub/internal/sse"
	"realtimehub/internal/tcp"
	"realtimehub/internal/testkit"
)

func TestMain(m *testing.M) {
	flag.Parse()
	switch {
	case *clusterFlag > 0: // three hubs a test work more than they wait
	case testkit.RaceDetector: // all that works takes some eight times as long
		testkit.MostlyWaits(4)
	default:
		testkit.MostlyWaits(16)
	}
	hubtest.Main(m)
}

// What any package's tests need, by its short name.
var (
	eventually = testkit.Eventually
	liveHeap   = testkit.LiveHeap
	agrees     = testkit.Agrees
)

type syncBuffer = testkit.Buffer

// testLimits are the defaults.
var testLimits = history.Limits{Events: 10_000, Bytes: 64 << 20, TTL: 24 * time.Hour, Total: 1 << 30, Window: 2 * time.Minute, IDs: 1_000_000}

// testHub is a whole hub behind a server on loopback.
type testHub struct {
	*Hub
	Cluster *cluster.Cluster
	API     *api
	Handler http.Handler // its API's, held against the contract
	Server  *httptest.Server
	URL     string

	peers cluster.Peers // nil: it is alone

	contract *contracttest.Contract // nil: that of all tests
	door     *hubtest.Door          // of its clients
	polling  pollers

	client *http.Client
	nodes  []*testHub // all of its cluster, itself first
	turn   atomic.Int64
}

// next is each node of the cluster in turn.
func (h *testHub) next() *testHub { return h.nodes[int(h.turn.Add(1))%len(h.nodes)] }

// settle waits until all nodes know of each other's connections what they want to,
// as the contract allows them a second for, and who polls has a poll open.
func (h *testHub) settle(t testing.TB) {
	t.Helper()
	h.polling.settle(t, h)
	if len(h.nodes) == 1 {
		return
	}
	eventually(t, h.settled)
}

func (h *testHub) settled() bool {
	for _, node := range h.nodes {
		for tenant, ids := range node.Cluster.Remotes() {
			var there []uuid.UUID
			for _, other := range h.nodes {
				if other != node {
					for _, c := range other.streams.Connections(tenant, nil) {
						there = append(there, c.ID)
					}
				}
			}
			order := func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) }
			slices.SortFunc(ids, order)
			slices.SortFunc(there, order)
			if !slices.Equal(ids, there) {
				return false
			}
		}
	}
	return true
}

// holder is the node that has a connection, and the connection there.
func (h *testHub) holder(id string) (*testHub, *delivery.Connection) {
	for _, node := range h.nodes {
		if c := node.Hub.streams.Connection(id); c != nil {
			return node, c
		}
	}
	return h, nil
}

// newTestHub starts a hub that announces no presence unless configured to, and
// ends it with the test.
func newTestHub(t testing.TB, configure ...func(*HubConfig, *PresenceConfig)) *testHub {
	t.Helper()
	return newTrustedHub(t, openDoor(t), access.RatesConfig{}, configure...)
}

// keeping has a hub's history keep so many events of a tenant.
func keeping(events int) func(*HubConfig, *PresenceConfig) {
	return func(hub *HubConfig, _ *PresenceConfig) {
		limits := testLimits
		limits.Events = events
		hub.Log = history.NewMemory(limits)
	}
}

// openDoor asks for no credential.
func openDoor(t testing.TB) *access.Auth {
	auth, err := access.NewAuth(context.Background(), access.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return auth
}

// newTrustedHub is newTestHub with credentials and rate limits.
func newTrustedHub(t testing.TB, auth *access.Auth, limits access.RatesConfig, configure ...func(*HubConfig, *PresenceConfig)) *testHub {
	t.Helper()
	if *clusterFlag == 0 {
		var join func(history.Limits, bool) *broker.Broker
		if *folderFlag {
			join = func(kept history.Limits, external bool) *broker.Broker {
				return joinFolder(t, kept, func(cfg *broker.Config) { cfg.Prepare = external })
			}
		}
		h := newNode(t, auth, limits, join, configure...)
		h.nodes = []*testHub{h}
		return h
	}
	return newCluster(t, *clusterFlag, natstest.Start(t, 1), auth, limits, configure...)
}

// newCluster starts n hubs that share a broker, spread over its servers.
func newCluster(t testing.TB, n int, b *natstest.Broker, auth *access.Auth, limits access.RatesConfig, configure ...func(*HubConfig, *PresenceConfig)) *testHub {
	t.Helper()
	prefix := newPrefix()
	var nodes []*testHub
	for i := range n {
		nodes = append(nodes, newNode(t, auth, limits, func(kept history.Limits, external bool) *broker.Broker {
			return joinBroker(t, b, i%len(b.Servers), prefix, kept, func(cfg *broker.Config) { cfg.Prepare = external })
		}, configure...))
	}
	for _, node := range nodes {
		node.nodes = []*testHub{node}
	}
	first := nodes[0]
	return &testHub{
		Hub: first.Hub, Cluster: first.Cluster, API: first.API, Handler: first.Handler, Server: first.Server,
		URL: first.URL, peers: first.peers, door: first.door, client: first.client, nodes: nodes,
	}
}

// newNode starts one hub, one of those that share a broker if join is not nil.
func newNode(t testing.TB, auth *access.Auth, limits access.RatesConfig, join func(kept history.Limits, external bool) *broker.Broker, configure ...func(*HubConfig, *PresenceConfig)) *testHub {
	t.Helper()
	return newTellingNode(t, auth, limits, Reporting{}, join, configure...)
}

// newTellingNode is newNode that tells services of something.
func newTellingNode(t testing.TB, auth *access.Auth, limits access.RatesConfig, told Reporting, join func(kept history.Limits, external bool) *broker.Broker, configure ...func(*HubConfig, *PresenceConfig)) *testHub {
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	hubConfig := HubConfig{
		Retry: 2 * time.Second, Heartbeat: 15 * time.Second, StreamBuffer: 1 << 20,
		Log: history.NewMemory(testLimits), Resolver: room.Own{}, Logger: logger,
		AckTimeout: 20 * time.Second, Quotas: allowance.New(plan.Of(1 << 30)), Most: delivery.Limits{Profile: 256}, Memberships: 1_000_000,
	}
	presenceConfig := PresenceConfig{
		IdleTimeout: 5 * time.Minute, Tick: 10 * time.Millisecond, Grace: 5 * time.Second,
		TypingTTL: 6 * time.Second, Audience: settings.AudienceNone, Burst: 100,
	}
	for _, c := range configure {
		c(&hubConfig, &presenceConfig)
	}
	var peers cluster.Peers
	if join != nil { // with the limits of the log that was configured
		_, own := hubConfig.Resolver.(room.Own)
		broker := join(hubConfig.Log.(*history.Memory).Limits(), !own)
		if hubConfig.Log, peers, told.Keeper = broker.Log(), broker.Peers(), broker.Duties; told.Box == nil {
			told.Box = broker.Outbox()
		}
		if own {
			hubConfig.Rooms = broker.Rooms()
		}
	}
	limits.Quotas = hubConfig.Quotas
	if limits.ClientRate == 0 { // the default; -1 lifts it
		limits.ClientRate = 20
	}
	h := &testHub{Hub: NewHub(hubConfig, presenceConfig, peers, told), peers: peers, door: suitesDoor(t), client: &http.Client{Transport: &http.Transport{}}}
	h.Cluster = h.Hub.cluster
	h.API = NewAPI(h.Hub, auth, access.NewRates(limits), APIConfig{
		MaxEventBytes: 60 << 10, MaxBodyBytes: 1 << 20, Loopback: true, Logger: logger,
		Secrets: hubsSecrets,
	})
	h.Handler = checked(t, h.API.Handler())
	listener, err := tcp.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.Server = &httptest.Server{Listener: listener, Config: &http.Server{Handler: h.Handler, ConnContext: tcp.ConnContext}}
	h.Server.Start()
	h.URL = h.Server.URL

	ctx, stop := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		go h.duties.Run(ctx)
		go h.notices.Run(ctx)
		h.presence.Run(ctx)
	}()
	t.Cleanup(func() {
		h.streams.Drain(ctx, 0)
		h.client.CloseIdleConnections()
		h.Server.Close()
		last, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := h.streams.Engine().Close(last); err != nil {
			t.Errorf("streams left: %v", err)
		}
		stop()
		<-stopped
	})
	return h
}

// mustConnect opens a stream that nobody serves: what it is sent, it owes.
func (h *Hub) mustConnect(t testing.TB, s delivery.Subscription) *delivery.Connection {
	t.Helper()
	var c *delivery.Connection
	err := untilConfirmed(func() (err error) {
		c, err = h.streams.Connect(t.Context(), s)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// observer is who is told of the hub's connections.
func (h *testHub) observer() delivery.Observer { return h.Cluster }

// testClient is a stream by the short names of these tests.
type testClient struct{ *hubtest.Stream }

func (c *testClient) read() (sse.Event, error) { return c.Read() }
func (c *testClient) close()                   { c.Close() }

func (c *testClient) next(t testing.TB) sse.Event {
	t.Helper()
	return c.Next(t)
}

func (c *testClient) until(t testing.TB, typ string) sse.Event {
	t.Helper()
	return c.Until(t, typ)
}

// fromOutside is the hub as its clients know it.
func (h *testHub) fromOutside() *hubtest.Hub {
	return &hubtest.Hub{URL: h.URL, Client: h.client, Contract: h.contract}
}

// open opens a stream by the hub's door, and reads hub.ready.
func (h *testHub) open(t testing.TB, query string) *testClient {
	t.Helper()
	return h.openAt(t, h.next(), query)
}

// beside is open at the hub that holds a connection, which has what that connection was sent.
func (h *testHub) beside(t testing.TB, of *testClient, query string) *testClient {
	t.Helper()
	node, _ := h.holder(of.ConnectionID)
	return h.openAt(t, node, query)
}

// post sends JSON and returns the status and the answer, if it is an object.
func (h *testHub) post(t testing.TB, path, body string) (int, map[string]any) {
	t.Helper()
	return h.do(t, http.MethodPost, path, body)
}

// do is Do through each hub in turn. On a cluster it asks again, as clients do, while the
// broker or another hub is too slow to answer.
func (h *testHub) do(t testing.TB, method, path, body string) (int, map[string]any) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		h.settle(t)
		status, answer := h.next().fromOutside().Do(t, method, path, body)
		if *clusterFlag == 0 || !tooSlow(answer) || time.Now().After(deadline) {
			return status, answer
		}
		body = hubtest.WithIDs(t, body, answer)
	}
}

// tooSlow says whether an answer is that the broker, another hub or a service did not answer in time.
func tooSlow(answer map[string]any) bool {
	code, _ := answer["code"].(string)
	return slices.Contains([]string{"Unconfirmed", "BrokerUnavailable", "HubUnavailable", "MembershipUnavailable"}, code)
}

// answered is do, again while the broker or another hub is too slow to answer.
func (h *testHub) answered(t testing.TB, method, path, body string) (status int, answer map[string]any) {
	t.Helper()
	eventually(t, func() bool {
		status, answer = h.do(t, method, path, body)
		return !tooSlow(answer)
	})
	return status, answer
}

// accepted posts an event or a batch until it is confirmed, and returns its answer.
func (h *testHub) accepted(t testing.TB, path, body string) map[string]any {
	t.Helper()
	h.settle(t)
	return h.next().fromOutside().Accepted(t, path, body)
}

// publish publishes one event and returns its answer.
func (h *testHub) publish(t testing.TB, tenant, typ, target, payload string) map[string]any {
	t.Helper()
	h.settle(t)
	return h.next().fromOutside().Publish(t, tenant, typ, target, payload)
}

// changes has members changed, again while not all hubs have said that they know.
func (h *testHub) changes(t testing.TB, method, path, body string) {
	t.Helper()
	h.settle(t)
	h.next().fromOutside().Changes(t, method, path, body)
}

// received publishes a marker to the tenant and returns, of each client, all that came
// before it.
func (h *testHub) received(t testing.TB, tenant string, clients ...*testClient) [][]sse.Event {
	t.Helper()
	h.publish(t, tenant, markerType, `{"kind":"tenant"}`, "0")
	all := make([][]sse.Event, len(clients))
	for i, c := range clients {
		all[i] = c.UntilMarker(t)
	}
	return all
}

// payloads is received, each client's events in a line as hubtest.Words has them.
func (h *testHub) payloads(t testing.TB, tenant string, clients ...*testClient) []string {
	t.Helper()
	all := []string{}
	for _, events := range h.received(t, tenant, clients...) {
		all = append(all, hubtest.Words(t, events))
	}
	return all
}

// byItself is testkit.ByItself, which is not on a cluster.
func byItself(t *testing.T) bool {
	t.Helper()
	alone(t, "it weighs what is in a process")
	return testkit.ByItself(t)
}
