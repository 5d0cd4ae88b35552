// Package dialer connects to NATS servers beside whoever asks for it. The client library
// holds its connection's lock while it connects, so that all who only want to send wait for
// a name server, for a network or for a server that says nothing. With Whole such a
// connection also ends where something could not be sent.
package dialer
