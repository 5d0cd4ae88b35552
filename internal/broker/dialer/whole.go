package dialer

import (
	"net"

	"github.com/nats-io/nats.go"
)

// Whole is an option, after those that say how to connect. It has a connection end with the
// first write that fails. The library itself goes on where nothing of it had left, without
// what it was to send: a subscription among it would be missing, and nobody would know.
func Whole(o *nats.Options) error {
	if o.CustomDialer != nil {
		o.CustomDialer = wholeDialer{o.CustomDialer}
	}
	if o.InProcessServer != nil {
		o.InProcessServer = wholeInside{o.InProcessServer}
	}
	return nil
}

type wholeDialer struct{ dialer nats.CustomDialer }

// Dial implements nats.CustomDialer.
func (w wholeDialer) Dial(network, address string) (net.Conn, error) {
	conn, err := w.dialer.Dial(network, address)
	if err != nil {
		return nil, err
	}
	return whole{conn}, nil
}

type wholeInside struct{ server nats.InProcessConnProvider }

// InProcessConn implements nats.InProcessConnProvider.
func (w wholeInside) InProcessConn() (net.Conn, error) {
	conn, err := w.server.InProcessConn()
	if err != nil {
		return nil, err
	}
	return whole{conn}, nil
}

// whole is a connection of which all that was written has left, or that has ended.
type whole struct{ net.Conn }

// Write implements net.Conn.
func (w whole) Write(b []byte) (int, error) {
	n, err := w.Conn.Write(b)
	if err != nil {
		w.Conn.Close()
	}
	return n, err
}
