// Package outbox keeps what the services of a tenant are told: items in one order, each with a
// place that is the one before it and one more. A service that was away reads from where it was.
//
// [Box.Put] appends, [Box.Read] reads from a place on, for services that pull. Package webhook
// sends: [Box.Lead] says when it is this process's turn among several, [Box.Follow] which tenants
// have something, and [Box.Taken] how far their service has come. [NewMemory] makes the kind that
// ends with the process.
//
// The lock of a Memory is held while a follower is told, which calls nothing of the Box.
package outbox
