// Package cluster makes several hubs one: it keeps what other hubs tell of their connections,
// finds a connection wherever it is, and passes on what is asked about it.
//
// [Cluster.Find] finds a connection, [Cluster.Kick] and [Cluster.Adjust] change it on whichever
// hub has it, and [Cluster.Connections] lists those of all hubs. A hub that does not answer is
// an error, never an empty answer. How hubs reach each other is a [Peers], and what they are
// told comes in by the methods of [Sink]; package broker has the one and calls the other.
// [Call], [Answer] and what is in them go over the wire between hubs of two versions: a field
// may be added, and none renamed.
package cluster
