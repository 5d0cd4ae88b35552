// Package browser shows what a browser makes of the hub: the console, the client
// realtime.js with the tabs that share its stream, and a stock EventSource.
//
// Its tests start the program as a user does, and a headless Chromium.
//
//	go test ./test/browser
//	go test -run TestRealtimeBack ./test/browser
package browser
