// Package faults shows that several hubs keep their promises whatever happens to them.
//
// Its test starts three hubs on three NATS servers, all processes of their own, with a
// proxy on each line between them. While people come and go, change rooms and publish, a
// history of faults that comes from a seed happens to the processes and the lines. In the
// end a judge that knows each event that was acknowledged leads each person through all
// that its streams brought. All that is known of a hub is its contract, its settings and
// the name of the stream that it keeps.
//
//	go test -v ./test/faults
//	go test -v ./test/faults -faults.long
//	go test -v ./test/faults -run TestHistories -faults.seeds 7,8 -faults.for 2m -faults.only hub-pause,drop-answers
package faults
