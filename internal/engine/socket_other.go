//go:build !linux

package engine

import (
	"errors"
	"net"
)

// Elsewhere every stream takes the plain path.

const canTake = false

func dup(*net.TCPConn) (fd int, ok bool) { return -1, false }
func send(int, []byte) (int, error)      { return 0, errors.ErrUnsupported }
func receive(int, []byte) (int, error)   { return 0, errors.ErrUnsupported }
func discard(int) (int, error)           { return 0, errors.ErrUnsupported }
func shutdown(int)                       {}
func closeSocket(int)                    {}

type poller struct{}

func (*poller) add(*Engine, *Stream) error { return errors.ErrUnsupported }
func (*poller) remove(*Stream)             {}
func (*poller) awaitRoom(*Stream) error    { return errors.ErrUnsupported }
func (*poller) close()                     {}
