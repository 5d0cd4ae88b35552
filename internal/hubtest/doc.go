// Package hubtest is what tests need that treat the hub as a black box: it starts the
// program as a user does, talks to it as its clients and services do, and holds what
// both say against the contract. It knows the contract, the wire, the settings and the
// files of this repository, and nothing of the inside of the hub.
//
//	func TestMain(m *testing.M) { hubtest.Main(m) }
//
//	p := hubtest.Start(t, "REALTIME_PRESENCE_GRACE=0")
//	stream := p.Open(t, "tenant=acme&profile=me")
//	p.Publish(t, "acme", "a.b", `{"kind":"tenant"}`, "1")
//	event := stream.Until(t, "a.b")
//
// A stream is read as Server-Sent Events by whichever of [Doors] it comes: [Hub].Door says which.
//
// Only tests import it, so it stays out of the binary.
package hubtest
