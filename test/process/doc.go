// Package process shows what the hub does as a process: how much memory it takes when
// nobody reads, what happens when descriptors run out, how it ends, and what it makes of
// peers that vanish, of a network that is out and of two minutes of silence.
//
// Its tests start the program as a user does; they are for Linux, which says what a
// process costs, and has networks that can be cut.
//
//	go test ./test/process
//	go test -run 'TestDrain|TestSecondSignal' -v ./test/process
package process
