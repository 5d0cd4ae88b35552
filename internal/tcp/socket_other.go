//go:build !linux

package tcp

import (
	"errors"
	"net"
)

// Elsewhere no socket is taken.

const canTake = false

func dup(*net.TCPConn) (fd int, ok bool) { return -1, false }
func send(int, []byte) (int, error)      { return 0, errors.ErrUnsupported }
func receive(int, []byte) (int, error)   { return 0, errors.ErrUnsupported }
func discard(int) (int, error)           { return 0, errors.ErrUnsupported }
func shutdown(int)                       {}
func closeSocket(int)                    {}
func giveBack(int)                       {}

type epoll struct{}

func (*Poller) add(*Socket, Key) error { return errors.ErrUnsupported }
func (*Poller) remove(*Socket)         {}

// AwaitRoom has no socket to wait for.
func (*Poller) AwaitRoom(*Socket, Key) error { return errors.ErrUnsupported }

// Close has nothing to end.
func (*Poller) Close() {}
