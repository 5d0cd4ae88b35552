// Package fair has many wait for few places so that nobody waits behind another's crowd.
//
// [Semaphore.Acquire] waits for one of its places, one key after the other;
// [Semaphore.Release] gives it back. [Series.Do] does the things of each key in order, beside
// its caller, and has those that wait be one. [ForEach] does independent things, some at a time, and waits for all of them. An
// [Alarm] does what is due, one timer for all of it, key by key.
package fair
