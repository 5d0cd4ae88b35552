package cluster_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"

	"realtimehub/internal/allowance"
	"realtimehub/internal/cluster"
	"realtimehub/internal/cluster/clustertest"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/plan"
	"realtimehub/internal/problem"
	"realtimehub/internal/room"
	"realtimehub/internal/sse"
	"realtimehub/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m, nil) }

// presence and typists are told, and do nothing.
type presence struct{}

func (presence) Connected(*delivery.Connection)                 {}
func (presence) Left(*delivery.Connection, time.Time)           {}
func (presence) Disconnected(*delivery.Connection)              {}
func (presence) Touch(*delivery.Connection, time.Time)          {}
func (presence) Used(event.TenantProfile, time.Time)            {}
func (presence) Went(event.TenantProfile, time.Time, time.Time) {}
func (presence) Forget(string)                                  {}

func (presence) Came(who event.TenantProfile, _ time.Time, _ bool) *event.ProfileText {
	name := who.Profile.Text()
	return &name
}

type typists struct{}

func (typists) Heard(string, event.Profile, string, bool) {}
func (typists) Typing(context.Context, string, event.Profile, string, bool) error {
	return nil
}

// rig is a cluster on a hub's delivery, without the hub around it, until the test ends.
type rig struct {
	*cluster.Cluster
	delivery.Parts
	quotas *allowance.Pools
}

// newRig makes one; peers that are nil leave it alone.
func newRig(t testing.TB, peers cluster.Peers, resolver room.Resolver) *rig {
	return newRigOf(t, peers, resolver, func(*cluster.Config) {})
}

// newRigOf is newRig with other settings.
func newRigOf(t testing.TB, peers cluster.Peers, resolver room.Resolver, configure func(*cluster.Config)) *rig {
	r := &rig{quotas: allowance.New(plan.Of(1 << 30))}
	cfg := delivery.Config{
		Retry: time.Second, Plain: true, Log: history.NewMemory(history.Limits{}),
		Resolver: resolver, Quotas: r.quotas, Logger: slog.New(slog.DiscardHandler),
	}
	if peers != nil {
		cfg.Node = &delivery.Node{Mark: peers.Node(), Away: peers.Away}
	}
	r.Parts = delivery.New(cfg)
	whole := cluster.Config{Delivery: r.Parts, Pools: r.quotas, Presence: presence{}, Typists: typists{}, Peers: peers}
	configure(&whole)
	r.Cluster = cluster.New(whole)
	t.Cleanup(func() {
		r.Streams.Refuse() // nobody is reminded any more
		over, cancel := context.WithCancel(context.Background())
		cancel()
		r.Streams.Engine().Close(over)
	})
	return r
}

func user(id string) event.Profile { return event.Profile{Type: "user", ID: id} }

func (r *rig) connect(t testing.TB, id string) *delivery.Connection {
	t.Helper()
	c, err := r.Streams.Connect(t.Context(), delivery.Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: user(id)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// remote is a connection that the hub with a mark holds.
func remote(node [4]byte, id string) *delivery.Connection {
	of := uuid.Must(uuid.NewV7())
	copy(of[len(of)-len(node):], node[:])
	return delivery.NewRemote(of, "acme", user(id), time.Now(), time.Now(), nil)
}

var other = [4]byte{1}

// A call finds a connection, which ends before it is carried out: it is answered that
// there is none, and other hubs are not told of it again.
func TestCallsOfAConnectionThatHasJustGone(t *testing.T) {
	for name, peers := range map[string]*clustertest.Peers{"alone": nil, "of two": {}} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			r := newRig(t, nil, room.Own{})
			if peers != nil {
				peers.Set([][4]byte{other}, nil)
				r = newRig(t, peers, room.Own{})
			}
			c := r.connect(t, "gone")
			r.connect(t, "there") // so that the tenant stays
			found := func(found bool, err error) bool {
				is.NoErr(err)
				return found
			}
			is.True(found(r.Touch(t.Context(), c)))
			is.True(found(r.Kick(t.Context(), c, delivery.CloseKicked)))

			is.True(!found(r.Touch(t.Context(), c)))
			is.True(!found(r.Prolong(t.Context(), c, c.ConnectedAt)))
			is.True(!found(r.Adjust(t.Context(), c, nil, &[]event.Profile{})))
			is.True(!found(r.Kick(t.Context(), c, delivery.CloseKicked)))
			if peers != nil {
				told := peers.Told()
				is.Equal(len(told), 4) // it came, there is another, it is active, it went
				is.Equal(told[3].ID, c.ID)
				is.True(told[3].Gone)
			}
		})
	}
}

// heldPeers count what is told of while it may change.
type heldPeers struct {
	clustertest.Peers
	x     *cluster.Cluster
	loose int
}

func (h *heldPeers) Tell(tenant string, c cluster.SessionChange) {
	h.Peers.Tell(tenant, c)
	if !h.x.Telling() {
		h.loose++
	}
}

// What others are told last of a connection is what is held: nothing changes between that
// it does and that it is told.
func TestWhatIsToldIsWhatIsHeld(t *testing.T) {
	is := is.New(t)
	p := &heldPeers{}
	r := newRig(t, p, room.Own{})
	p.x = r.Cluster
	c := r.connect(t, "me")
	found, err := r.Touch(t.Context(), c)
	is.NoErr(err)
	is.True(found)
	r.Streams.Kick(c, delivery.CloseKicked)
	is.Equal(len(p.Told()), 3)
	is.Equal(p.loose, 0)
}

// What other hubs have told of is counted, until the tenant is let go, whether there is room
// for it or not.
func TestConnectionsOfOtherHubsAreCounted(t *testing.T) {
	is := is.New(t)
	r := newRig(t, &clustertest.Peers{}, room.Own{})
	c := r.connect(t, "me")
	before := r.quotas.State.Of("acme")
	come := cluster.SessionChange{Session: cluster.Session{ID: uuid.New(), Profile: user("you"), ConnectedAt: time.Now(), ActiveAt: time.Now()}}
	r.Changed("acme", []cluster.SessionChange{come}, false, time.Time{})
	is.True(r.quotas.State.Of("acme") >= before+50) // bytes that are kept of one
	is.Equal(r.Remotes(), map[string][]uuid.UUID{"acme": {come.ID}})
	r.Streams.Kick(c, delivery.CloseKicked)
	testkit.Eventually(t, func() bool { return r.Streams.Stats().Tenants == 0 })
	testkit.Eventually(t, func() bool { return r.quotas.State.Of("acme") == 0 })
	is.Equal(len(r.Remotes()), 0)
}

// Connections that other hubs hold are closed together.
func TestConnectionsOfOtherHubsAreClosedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		peers := &clustertest.Peers{Answer: func([4]byte, cluster.Call) (cluster.Answer, error) {
			time.Sleep(time.Second)
			return cluster.Answer{Found: true}, nil
		}}
		r := newRig(t, peers, room.Own{})
		list := make([]*delivery.Connection, 30)
		for i := range list {
			list[i] = remote(other, "me")
		}
		start := time.Now()
		is.NoErr(r.KickAll(t.Context(), list, delivery.CloseKicked))
		is.Equal(time.Since(start), time.Second)
	})
}

// Of whom a hub does not answer why an event did not reach them nothing is known, and the question is
// counted as one that was not answered.
func TestAnExplanationThatAHubDoesNotGive(t *testing.T) {
	is := is.New(t)
	silent := func(cluster.Call) ([]cluster.Answer, []string) { return nil, []string{"x", "y"} }
	r := newRig(t, &clustertest.Peers{AnswerAll: silent}, room.Own{})
	why, _, all := r.Explain(t.Context(), "acme", []event.Profile{user("me")}, delivery.Sent{})
	is.Equal(why, []delivery.Why{delivery.WhyUnknown})
	is.True(!all)
	is.Equal(r.Streams.Stats().Unanswered, int64(2))
}

// A refresh that another hub does not say to have done is not told as done.
func TestARefreshThatAHubDoesNotAnswer(t *testing.T) {
	is := is.New(t)
	for code, answer := range map[string]func(cluster.Call) ([]cluster.Answer, []string){
		"HubUnavailable":        func(cluster.Call) ([]cluster.Answer, []string) { return nil, []string{"x"} },
		"MembershipUnavailable": func(cluster.Call) ([]cluster.Answer, []string) { return []cluster.Answer{{}}, nil },
	} {
		r := newRig(t, &clustertest.Peers{AnswerAll: answer}, refresher{})
		err := r.Refresh(t.Context(), "acme", event.Room{Kind: event.KindConversation, ID: "r"})
		is.Equal(problem.Of(err).Code, code)
	}
	r := newRig(t, &clustertest.Peers{AnswerAll: func(cluster.Call) ([]cluster.Answer, []string) { return []cluster.Answer{{Found: true}}, nil }}, refresher{})
	is.NoErr(r.Refresh(t.Context(), "acme", event.Room{Kind: event.KindConversation, ID: "r"}))
}

// Whoever asks may leave before another hub has answered, which is not silent for that.
func TestWhoAsksAnotherHubMayLeave(t *testing.T) {
	is := is.New(t)
	peers := &clustertest.Peers{
		Answer:    func([4]byte, cluster.Call) (cluster.Answer, error) { return cluster.Answer{}, delivery.ErrSilent },
		AnswerAll: func(cluster.Call) ([]cluster.Answer, []string) { return nil, []string{"x"} },
	}
	r := newRig(t, peers, refresher{})
	ask := func(ctx context.Context) (unanswered int64) {
		before := r.Streams.Stats().Unanswered
		_, err := r.Find(ctx, remote(other, "me").ID.String())
		is.True(errors.Is(err, delivery.ErrSilent))
		r.Explain(ctx, "acme", []event.Profile{user("me")}, delivery.Sent{})
		is.True(r.Refresh(ctx, "acme", event.Room{Kind: event.KindConversation, ID: "r"}) != nil)
		return r.Streams.Stats().Unanswered - before
	}
	ctx, leave := context.WithCancel(t.Context())
	is.Equal(ask(ctx), int64(3))
	leave()
	is.Equal(ask(ctx), int64(0))
}

// refresher is a membership service that knows nobody.
type refresher struct{}

func (refresher) Resolve(context.Context, string, event.Room) (*room.Roster, error) {
	return &room.Roster{}, nil
}
func (refresher) Refresh(context.Context, string, event.Room) (*room.Roster, error) {
	return &room.Roster{}, nil
}
func (refresher) Away(func() int64) {}

// What the version before says is understood, and what it does not understand is not taken
// for done.
func TestHubsOfTheVersionBefore(t *testing.T) {
	is := is.New(t)
	there := newRig(t, nil, room.Own{})
	for i := range 5 {
		there.connect(t, fmt.Sprint(i))
	}
	a := there.Serve(cluster.Call{Op: cluster.CallList, Tenant: "acme"})
	is.Equal(len(a.Connections), 5) // without a limit all
	before := a
	before.Count = nil
	after := a.Connections[1].ID.String()
	for _, answer := range []cluster.Answer{before, a} {
		peers := &clustertest.Peers{Answer: func([4]byte, cluster.Call) (cluster.Answer, error) { return answer, nil }}
		peers.Set([][4]byte{other}, nil)
		r := newRig(t, peers, room.Own{})
		p, err := r.Connections(t.Context(), "acme", nil, after, 1, func(int) (func(), error) { return func() {}, nil })
		is.NoErr(err)
		is.Equal(p.Count, 5)
		if answer.Count == nil { // it does not know of pages
			is.Equal(len(p.List), 1)
			is.Equal(p.List[0].ID, a.Connections[2].ID)
			is.True(p.More)
		}
	}
	r := newRig(t, &clustertest.Peers{Answer: func([4]byte, cluster.Call) (cluster.Answer, error) { return cluster.Answer{Found: true}, nil }}, room.Own{})
	asConfigured := []event.Profile(nil)
	_, err := r.Adjust(t.Context(), remote(other, "me"), nil, &asConfigured)
	is.Equal(problem.Of(err).Code, "HubUnavailable")
}

// What one hub asks and another answers arrives as it was: what is nil, what is empty and
// what is everything differ.
func TestCallsArriveAsTheyWere(t *testing.T) {
	is := is.New(t)
	alice := user("alice")
	none, some := []string{}, []string{"a.b", "c.*"}
	nobody, somebody := []event.Profile{}, []event.Profile{alice, {Type: "device", ID: "<a>:b"}}
	count := 0
	for _, c := range []cluster.Call{
		{}, {Op: cluster.CallAdjust, Types: &none}, {Op: cluster.CallAdjust, Types: &some}, {Op: cluster.CallAdjust, Watch: &nobody}, {Op: cluster.CallAdjust, Watch: &somebody},
		{Op: cluster.CallAdjust, Unwatch: true}, {Op: cluster.CallList, Tenant: "acme", Profile: &alice, After: "x", Limit: 7},
		{Op: cluster.CallProlong, ID: uuid.New(), Expires: time.Now().Round(0).UTC()}, {Op: cluster.CallProlong, ID: uuid.New()},
		{Op: cluster.CallKick, Reason: delivery.CloseKicked}, {Op: cluster.CallRooms, Place: 1 << 60}, {Op: cluster.CallRefresh, Room: event.Room{Kind: event.KindGroup, ID: "g"}},
	} {
		is.Equal(overTheWire(t, c), c)
	}
	for _, a := range []cluster.Answer{{}, {Found: true}, {Full: true, Person: true}, {Count: &count}, {More: true, Connections: []cluster.Described{{Tenant: "acme", Profile: alice, ConnectedAt: time.Now().Round(0).UTC(), Metadata: map[string]string{"": ""}}}}} {
		is.Equal(overTheWire(t, a), a)
	}
	for _, patterns := range [][]string{nil, {}, {"*"}, {"a.b"}, {"a.*", "b"}} {
		f, _ := event.ParseFilter(patterns)
		again, _ := event.ParseFilter(overTheWire(t, f.Patterns()))
		is.Equal(again, f)
	}
}

func overTheWire[T any](t *testing.T, v T) (back T) {
	t.Helper()
	data, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(data, &back)
	}
	if err != nil {
		t.Fatal(err)
	}
	return back
}
