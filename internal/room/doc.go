// Package room knows who belongs to which conversation or group of a tenant, and since when
// and until when, so that a replay shows nobody what was said without them.
//
// [Memberships] holds one tenant's rooms beside its connections; its caller locks it.
// [Memberships.Here] is whom an event reaches, and [Memberships.Reader] what somebody may
// replay. A [Resolver] says who belongs to a room: [Own] leaves it to the hub, and a [Service]
// asks another service and keeps its answers for a while. A [Shared] is what several hubs
// agree on; package broker has one.
//
// A Service's lock is not held while anybody waits; under it at most a quota's pool is asked.
package room
