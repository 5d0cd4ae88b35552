// Package websocket is the door for clients that speak WebSocket (RFC 6455): GET /v1/socket.
//
// [Door.Serve] answers a request for an upgrade. What goes out is an [Encoding]: each event, and
// each word of the hub, is a text frame with one JSON object in it. What a client sends, a session
// reads frame by frame as it comes, without a goroutine or a buffer while nothing does; each line
// of a message is a command of package client. Browsers hide an answer's status from their page, so
// a refusal is told on the socket ([Door.TurnAway]), before its close frame.
package websocket
