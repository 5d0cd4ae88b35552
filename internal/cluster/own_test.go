package cluster_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/google/uuid"
	"github.com/matryer/is"

	"realtimehub/internal/cluster"
	"realtimehub/internal/cluster/clustertest"
	"realtimehub/internal/delivery"
	"realtimehub/internal/room"
)

// Others get the lock of all tenants' connections after each piece of what another hub is told,
// and it is told of everyone that stays, though others come and go meanwhile.
func TestSessionsAreToldInPieces(t *testing.T) {
	is := is.New(t)
	r := newRig(t, &clustertest.Peers{}, room.Own{})
	conns := make([]*delivery.Connection, 2*cluster.Piece+10)
	for i := range conns {
		conns[i] = r.connect(t, fmt.Sprint(i))
	}
	stay := conns[len(conns)/2:]
	var sessions []cluster.Session
	pieces := 0
	for end := math.MaxInt; end > 0; pieces++ {
		before := len(sessions)
		sessions, end = r.SomeSessions("acme", end, sessions)
		is.True(len(sessions)-before <= cluster.Piece) // under the lock
		for i := pieces; i < len(conns)/2; i += 7 {
			r.Streams.Kick(conns[i], delivery.CloseKicked)
		}
	}
	is.Equal(pieces, 3)
	told := map[uuid.UUID]bool{}
	for _, s := range sessions {
		told[s.ID] = true
	}
	for _, c := range stay {
		is.True(told[c.ID])
	}
	for _, c := range conns {
		r.Streams.Kick(c, delivery.CloseKicked)
	}
	is.Equal(len(r.Sessions("acme")), 0)
	is.True(!r.Any("acme"))
}
