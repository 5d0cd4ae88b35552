package main

import (
	"context"
	"fmt"
	"testing"
	"time"

	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/sse"
)

// flat measures what is to cost the same however much there is that it does not touch: at one
// size, and at ten times that.
func flat(b *testing.B, name string, size int, fill func(*Hub, int), call func(*Hub)) {
	for _, n := range []int{size, 10 * size} {
		b.Run(fmt.Sprint(name, "/", n), func(b *testing.B) {
			hub, _ := newBenchHub(b, 0)
			fill(hub, n)
			call(hub) // the first may have something to forget
			for b.Loop() {
				call(hub)
			}
		})
	}
}

// opens opens a stream.
func opens(hub *Hub, tenant, id string) *delivery.Connection {
	c, err := hub.streams.Connect(context.Background(), delivery.Subscription{Encoding: sse.Encoding{}, Tenant: tenant, Profile: event.Profile{Type: "user", ID: id}})
	if err != nil {
		panic(err)
	}
	return c
}

// BenchmarkFlat: the two figures of each are the same but for what memory is far from the
// processor (docs/cost.md).
func BenchmarkFlat(b *testing.B) {
	tenants := func(hub *Hub, n int) {
		for i := range n {
			opens(hub, fmt.Sprint(i), "me")
		}
	}
	people := func(hub *Hub, n int) {
		for i := range n {
			opens(hub, "acme", fmt.Sprint(i))
		}
	}
	var one *delivery.Connection
	devices := func(hub *Hub, n int) {
		for range n {
			one = opens(hub, "acme", "me")
		}
	}
	flat(b, "sweep of tenants", 10_000, tenants, func(hub *Hub) { hub.Sweep(time.Now()) })
	flat(b, "the 20 busiest of tenants", 10_000, tenants, func(hub *Hub) { hub.tenants.Busiest(20) })
	flat(b, "page of 100 connections", 10_000, people, func(hub *Hub) {
		hub.cluster.Connections(context.Background(), "acme", nil, "", 100, anyLength)
	})
	flat(b, "touch of a profile's connections", 1_000, devices, func(hub *Hub) { hub.people.Touch(one, time.Now()) })
	rooms := func(hub *Hub, n int) {
		for i := range n {
			hub.members.SetMembers(context.Background(), "acme", event.Room{Kind: event.KindGroup, ID: fmt.Sprint(i)}, []event.Profile{{Type: "user", ID: "me"}})
		}
	}
	flat(b, "connect and leave of somebody in rooms", 1_000, rooms, func(hub *Hub) {
		hub.streams.Kick(opens(hub, "acme", "me"), delivery.CloseKicked)
	})
	flat(b, "leave of the one used last of a profile's connections", 1_000, devices, func(hub *Hub) {
		hub.people.Left(one, time.Now())
		hub.people.Connected(one)
	})
}

// BenchmarkConnectBeside: one after the other connects while events go to all of a tenant's 50,000
// streams.
func BenchmarkConnectBeside(b *testing.B) {
	for _, tenant := range []string{"acme", "globex"} {
		b.Run(tenant, func(b *testing.B) {
			hub, _ := newBenchHub(b, 50_000)
			ctx, stop := context.WithCancel(b.Context())
			over := make(chan struct{})
			go func() {
				defer close(over)
				for ctx.Err() == nil {
					e := &event.Event{TenantID: "acme", Type: "load.test", Payload: []byte("1"), Target: event.ToTenant(), Ephemeral: true}
					hub.Publish(ctx, []*event.Event{e})
				}
			}()
			n := 0
			for b.Loop() {
				opens(hub, tenant, fmt.Sprint("new", n))
				n++
			}
			stop()
			<-over
		})
	}
}
