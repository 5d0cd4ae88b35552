// Package outboxtest holds any kind of outbox.Box to what the program expects of it: [Run] with
// a [Kind]. Tests of a kind's own use its helpers: [Draft], [Put], [Read] and [Names].
package outboxtest
