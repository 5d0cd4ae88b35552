package cluster_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"

	"realtimehub/internal/cluster"
	"realtimehub/internal/cluster/clustertest"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/room"
	"realtimehub/internal/sse"
)

// marked is an id as the hub with a mark has it.
func marked(id uuid.UUID, node [4]byte) uuid.UUID {
	copy(id[len(id)-len(node):], node[:])
	return id
}

// A connection is found by all of its id but the mark of its hub, though another hub is silent;
// where none has it and one is silent that is not known.
func TestFindMarked(t *testing.T) {
	is := is.New(t)
	third := [4]byte{2}
	id, me := uuid.Must(uuid.NewV7()), event.TenantProfile{Tenant: "acme", Profile: user("me")}
	var silent, holds [4]byte
	peers := &clustertest.Peers{Answer: func(node [4]byte, c cluster.Call) (a cluster.Answer, err error) {
		switch {
		case node == silent:
			return a, delivery.ErrSilent
		case node != holds || c.ID != marked(id, holds):
			return a, nil // as a hub of the version before answers any question that it does not know
		case c.Op == cluster.CallPoll:
			a.Found = c.Tenant == me.Tenant && *c.Profile == me.Profile && c.Wait == cluster.OnlyWhether
		default:
			a.Found, a.Connections = true, []cluster.Described{{ID: c.ID, Tenant: "acme", Profile: me.Profile}}
		}
		return a, nil
	}}
	peers.Set([][4]byte{other, third}, nil)
	r := newRig(t, peers, room.Own{})

	c, err := r.FindMarked(t.Context(), id)
	is.NoErr(err)
	is.Equal(c, nil)
	polled, err := r.FindPolled(t.Context(), id, me)
	is.NoErr(err)
	is.Equal(polled, uuid.Nil)

	silent = other
	_, err = r.FindMarked(t.Context(), id)
	is.True(errors.Is(err, delivery.ErrSilent))
	_, err = r.FindPolled(t.Context(), id, me)
	is.True(errors.Is(err, delivery.ErrSilent))

	holds = third
	c, err = r.FindMarked(t.Context(), id)
	is.NoErr(err)
	is.Equal(c.ID, marked(id, third))
	polled, err = r.FindPolled(t.Context(), id, me)
	is.NoErr(err)
	is.Equal(polled, marked(id, third))

	alone := newRig(t, nil, room.Own{})
	c, err = alone.FindMarked(t.Context(), id)
	is.NoErr(err)
	is.Equal(c, nil)
}

// answering is an encoding whose clients are answered on their stream.
type answering struct{ sse.Encoding }

func (answering) AppendRecords(b, records []byte) []byte { return append(b, records...) }

// A client is answered on its stream, whichever hub has it, if its encoding has answers.
func TestSay(t *testing.T) {
	is := is.New(t)
	there := newRig(t, nil, room.Own{})
	plain := there.connect(t, "plain")
	asks, err := there.Streams.Connect(t.Context(), delivery.Subscription{Encoding: answering{}, Tenant: "acme", Profile: user("asks")})
	is.NoErr(err)
	is.True(there.Serve(cluster.Call{Op: cluster.CallSay, ID: asks.ID, Records: []byte("answer")}).Found)
	is.True(!there.Serve(cluster.Call{Op: cluster.CallSay, ID: plain.ID, Records: []byte("answer")}).Found)
	is.True(!there.Serve(cluster.Call{Op: cluster.CallSay, ID: uuid.New(), Records: []byte("answer")}).Found)

	var asked cluster.Call
	here := newRig(t, &clustertest.Peers{Answer: func(_ [4]byte, c cluster.Call) (cluster.Answer, error) {
		asked = c
		return cluster.Answer{Found: true}, nil
	}}, room.Own{})
	found, err := here.Say(t.Context(), remote(other, "me"), []byte("a\x1e"))
	is.NoErr(err)
	is.True(found)
	is.Equal(overTheWire(t, asked).Records, []byte("a\x1e"))
}

// A poll is answered by whoever serves polls, for whom it is, and by nobody before.
func TestPolls(t *testing.T) {
	is := is.New(t)
	r := newRig(t, nil, room.Own{})
	me := user("me")
	call := cluster.Call{Op: cluster.CallPoll, ID: uuid.New(), Tenant: "acme", Profile: &me, Wait: time.Second}
	is.Equal(r.Serve(call), cluster.Answer{})
	told := cluster.Answer{Found: true, Records: []byte("a\x1e"), Over: true}
	r.ServePolls(func(id uuid.UUID, who event.TenantProfile, wait time.Duration) cluster.Answer {
		is.Equal(id, call.ID)
		is.Equal(who, event.TenantProfile{Tenant: "acme", Profile: me})
		is.Equal(wait, time.Second)
		return told
	})
	is.Equal(r.Serve(overTheWire(t, call)), told)
	is.Equal(overTheWire(t, told), told)
	call.Profile = nil
	is.Equal(r.Serve(call), cluster.Answer{})
}
