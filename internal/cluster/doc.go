// Package cluster makes several hubs one: it keeps what other hubs tell of their connections,
// finds a connection wherever it is, and passes on what is asked about it.
//
// [Cluster.Find] finds a connection, [Cluster.Kick] and [Cluster.Adjust] change it on whichever
// hub has it, and [Cluster.Connections] lists those of all hubs. A hub that does not answer is
// an error, never an empty answer. How hubs reach each other is a [Peers], and what they are
// told comes in by the methods of [Sink]; package broker has the one and calls the other.
//
// Of a tenant that has streams here other hubs' connections are known by whose they are and when
// they were last active: [Cluster.Count] counts an event's, and presence is told of each person's.
// Of a tenant that has none nothing is kept, and [Cluster.Ask] asks for the number.
//
// Locks are taken in this order: taking, which is held while others' changes are taken in; mu,
// under which this hub's own connections change and others are told of them; and the leaves,
// which are those of the remote connections, of the tenants that are followed, of which hub is
// the foremost, of the kicks that are owed and of the questions to other hubs. No lock is held
// while a hub is asked.
//
// [Call], [Answer] and what is in them go over the wire between hubs of two versions: a field
// may be added, and none renamed.
package cluster
