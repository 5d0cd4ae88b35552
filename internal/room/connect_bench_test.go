package room

import (
	"fmt"
	"testing"

	"realtimehub/internal/event"
)

// BenchmarkConnectInManyRooms: two members of all rooms come and go in turn, so that they change
// places.
func BenchmarkConnectInManyRooms(b *testing.B) {
	for _, n := range []int{1_000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var m Memberships[*int]
			for i := range n {
				in := event.Room{Kind: event.KindGroup, ID: fmt.Sprint(i)}
				m.Add(in, bob, 1)
				m.Add(in, alice, 1)
			}
			conn := new(int)
			for b.Loop() {
				m.Connect(alice, conn)
				m.Disconnect(alice, conn)
				m.Connect(bob, conn)
				m.Disconnect(bob, conn)
			}
		})
	}
}
