package delivery

// Transport says by which door a connection came; the word is the contract's.
type Transport string

// The doors there are.
const (
	TransportSSE       Transport = "sse"
	TransportWebSocket Transport = "websocket"
	TransportSignalR   Transport = "signalr"
	TransportPoll      Transport = "poll"
)

// noTransports is how many connections came by each door before there are any.
func noTransports() map[Transport]int64 {
	return map[Transport]int64{TransportSSE: 0, TransportWebSocket: 0, TransportSignalR: 0, TransportPoll: 0}
}
