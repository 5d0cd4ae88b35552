// Package outbox keeps an outbox.Box on one NATS JetStream stream, for any number of processes.
// It owns what an item and its place are there, how the processes put things at places that
// follow each other, and how the one that sends learns of what was put.
//
// [Open] makes the stream. Each tenant has a head, the row that says which place was given last:
// [Box.Put] has the broker keep items and the next head together, from the head that it knows, or
// nothing. Whoever is second reads the head and tries again. [Box.Read] reads by place, without a
// consumer; [Box.Follow] has one for the heads of all tenants.
//
// Places of a tenant only grow. Where the broker has lost the last of them, or all, they go on
// past any that were given: [Box.Renew] says so of all tenants, and each process notices by
// itself where it knows of a later place than the broker does.
package outbox
