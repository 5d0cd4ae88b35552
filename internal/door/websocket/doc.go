// Package websocket is the door for clients that speak WebSocket (RFC 6455): GET /v1/socket.
//
// [Door.Serve] answers a request for an upgrade. What goes out is an [Encoding]: each event, and
// each word of the hub, is a text frame with one JSON object in it. Each line of a text that a
// client sends is a command of package client, done one after the other. Browsers hide an answer's
// status from their page, so a refusal is told on the socket ([Door.TurnAway]), before its close
// frame.
package websocket
