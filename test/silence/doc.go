// Package silence shows that nothing ends a stream on which nothing happens, in real time,
// with the default settings, on each transport and behind nginx: for 65 seconds, in CI for
// two minutes.
//
//	go test ./test/silence
package silence
