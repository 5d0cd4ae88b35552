// Package duties keeps on the broker who owes an acknowledgement of which event, for all hubs: it
// is the [duty.Keeper] that hubs share. A duty is a message of a stream before the event's
// publisher is told that it was accepted. What clients acknowledge is gathered by each hub, and
// kept a moment later. One hub, which has the lease, reads all of it and judges; when it ends
// another does. What came of an event takes the place of its duty.
//
// A report is put into the outbox by a name of its own, and only then is the duty over: who
// judges anew after a crash puts it once.
package duties
