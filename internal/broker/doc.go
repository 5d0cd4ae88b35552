// Package broker has what several hubs share over NATS JetStream: one history, one table of
// who is a member where, and what hubs tell and ask each other.
//
// [Connect] joins the hubs that have the same prefix, and [Broker.Close] leaves them.
// [Broker.Log] is the history that all share, [Broker.Rooms] the membership, [Broker.Peers]
// the other hubs; each implements the interface of the package that uses it. [Broker.Over]
// tells when the connection has ended for good.
//
// The three are made first, and then opened in this order. The log opens a journal (package
// journal), which hands it each tenant's messages in their order. The rooms open a table
// (package table) and read it as it changes: an event waits until the changes of membership
// that its publisher knew of are read here. The other hubs are reached through package peers.
// Type watch follows the connection: it counts what is wrong with it, and moves to another
// server where this one can do nothing.
//
// What goes over the wire and what is stored is read by hubs of the version before: fields of
// rows are added, and none is renamed.
//
// Lock order: enrolment.telling → the tenant's lock in package delivery; enrolment.telling →
// enrolment.mu. sharedRooms.mu and sharedLog.keyMu are leaves. No lock of this package but
// telling is held while a callback runs, and none while it waits for the broker.
package broker
