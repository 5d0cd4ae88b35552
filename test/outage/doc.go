// Package outage shows what holds while NATS servers and hubs are killed, stand still, are
// cut off or sleep: what was acknowledged reaches everybody once and in one order, /readyz
// says what is so, and nobody is said to have left who has not.
//
// Its tests start the program as a user does, and NATS servers of their own, in processes
// of their own where they are killed. Linux.
//
//	go test ./test/outage
//	go test -run 'TestBrokerKilled|TestLeaderKilled' -v ./test/outage
package outage
