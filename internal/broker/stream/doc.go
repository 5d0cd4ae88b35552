// Package stream asks one JetStream stream for what it has, and gives it what it is to keep.
// It owns the questions and answers on the wire, how long each may take, and whom to ask when
// a replica does not answer. What is in the stream is the business of packages journal and
// table, which each have one.
//
// [New] makes a [Stream] of a connection. [Stream.Publish] and [Stream.Request] have messages
// kept. [Stream.Direct] reads from any replica, which may be behind; [Stream.Leader],
// [Stream.Last], [Stream.Next] and [Stream.Info] ask the leader. [Stream.Make] makes what the
// broker is to have, and waits for a broker that is not up yet. [Joined] lets many who ask the
// same share an answer.
//
// A [*Refusal] is the broker's word that it has kept nothing; [ErrUnconfirmed] says that this
// is not known.
package stream
