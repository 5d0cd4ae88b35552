// Package cluster shows that several hubs which share NATS servers are one hub: calls,
// membership, presence, typing, ids and metrics through any of them.
//
// Its tests start the program three times, on NATS servers of their own. What happens when
// servers and hubs fail is in test/outage.
//
//	go test ./test/cluster
//	go test -run TestClusterPresence ./test/cluster
package cluster
