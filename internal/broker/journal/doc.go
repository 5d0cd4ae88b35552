// Package journal keeps an ordered journal of many keys on one NATS JetStream stream, which
// any number of processes append to, follow and read back. It owns the order, ids that are
// recognised again, the bounds of what is kept, and what becomes of readers when the broker
// loses some of it.
//
// [Open] makes the stream and watches over it until [Journal.Close]. [Journal.Append] returns
// once the broker has acknowledged what it was given. [Journal.Attach] follows a key: the
// callbacks of [Config] are told all of its items in one order, each once. [Journal.Read]
// reads back what is kept, [Journal.Span] says what that is, and [Journal.Ready] whether
// anything can be kept now.
//
// What JetStream republishes is the fast way. What is lost on it is found and read back: each
// message names its predecessor, and a sweep asks for the last ones. Items may also be passed
// to those who follow now without being kept.
//
// Lock order: feed.mu → Journal.mu. Journal.mu and space.mu are leaves. Handle, Behind, Quiet
// and Lost are called with the key's feed.mu held, so they call no method that locks a feed;
// Flush, Prepare and Await are called with nothing held.
package journal
