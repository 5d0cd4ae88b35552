// Package peers lets processes that share a NATS broker know of each other: who is
// there, and of each a set of small items by topic, which all who hold a topic see.
// Nothing is stored: each process owns its items and tells of changes; versions
// show what was lost, and a snapshot of one's items mends it.
package peers
