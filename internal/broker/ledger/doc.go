// Package ledger knows how many bytes of a stream are whose, and which of them are the oldest.
// It keeps few parts of each key, however many messages that has, and so knows a cut to a 16th
// of the key's bytes, or of what a key may have.
//
// [New] makes a [Ledger], which [Ledger.Add] tells of each message. [Ledger.Most] is the key
// that has most, and [Ledger.Cut] takes the oldest of one off. One goroutine uses it.
package ledger
