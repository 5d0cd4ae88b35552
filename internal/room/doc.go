// Package room knows who belongs to which conversation or group, and since which place in
// their tenant's history. [Memberships] keeps that for one tenant: connections come and go
// ([Memberships.Connect]), profiles join and leave ([Memberships.Add], [Memberships.Remove]),
// [Memberships.Here] finds who is to be told, and [Memberships.Reader] whose past is read. A
// connection is only kept and compared, so its type is the caller's.
//
// A [Resolver] is asked where somebody else owns membership: [NewService] asks a service over
// HTTP and keeps its answers; [Own] says that nobody does. [Shared] is what a cluster keeps of
// memberships for all of its hubs.
//
// Memberships has no lock, and is guarded by its tenant's. The service's lock is not held
// while anybody waits; under it at most a quota's pool is asked.
package room
