// Package sized has maps and lists that give memory back when they get smaller, and says
// how much memory things take, so that it can be counted.
//
// A [Table] is a map with Put, Get and Delete that knows its Bytes. A [Set] is one of things
// that know their own keys. [Push] and [Pull] are for lists whose bytes their owner counts.
// [Text] and [Block] are what Go takes for a string and for a piece of memory.
package sized
