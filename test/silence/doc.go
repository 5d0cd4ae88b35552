// Package silence shows that nothing ends a stream on which nothing happens: for two
// minutes in real time, with the default settings, on each transport and behind nginx.
//
//	go test ./test/silence
package silence
