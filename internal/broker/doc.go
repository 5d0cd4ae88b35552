// Package broker keeps on NATS what several hubs share: the history of each tenant, who
// belongs to which room, and what hubs tell each other.
//
// [Connect] opens all three on one connection and watches it. [Broker.Log] is a history.Log,
// [Broker.Rooms] a room.Shared and [Broker.Peers] a cluster.Peers; [Broker.Over] says when the
// connection cannot come back. What it stores is read by hubs of the next version, and of the
// one before: no field of a row may be renamed. How a stream is followed is in
// internal/broker/journal, how hubs find each other in internal/broker/peers.
package broker
