// Package probe serves the streams by which the doctor examines what stands between a client
// and the hub: what arrives and when, how long it may be silent, and when the hub hears of an
// end. [Server.Serve] reads what is asked for and answers with the stream.
package probe
