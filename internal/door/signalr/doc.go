// Package signalr is the door for stock SignalR clients: the wire of ASP.NET Core's SignalR
// (HubProtocol.md and TransportProtocols.md in github.com/dotnet/aspnetcore), JSON protocol 1,
// as npm @microsoft/signalr 10 speaks it.
//
// A [Door] negotiates, opens streams over Server-Sent Events and long polling, and does what
// clients POST. A session is a connection: all of its id but the mark of the hub that holds it is
// chosen by whoever negotiates, and told to the client in a signed [Pass]. So nothing is kept
// between negotiating and opening, and any hub finds the holder of any session.
//
// [Encoding] writes a stream's events as records; [Next] and [Parse] read what clients send.
package signalr
