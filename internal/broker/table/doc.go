// Package table keeps rows on one NATS JetStream stream, by topic and group, for any number of
// processes. It owns what a row is there, how the rows of a group are changed together, and
// how a process learns that rows have changed or are lost.
//
// [Open] makes the stream; [Table.Put] changes rows of a group, from the version that the
// caller knows; [Table.Read] reads those of a topic that have changed since a place, and
// [Table.Look] has all that has changed read, by [Config].Changed. [Table.Last] says how far a
// topic has come.
package table
