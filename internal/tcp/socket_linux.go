package tcp

import (
	"net"
	"os"
	"sync"
	"syscall"
	"unsafe"
)

// canTake: a socket can be taken from net/http.
const canTake = true

// dup is a second descriptor of a connection's socket, which is then ours alone
// once the connection is closed. (A raw descriptor kept without it would be closed
// by the connection's finalizer.)
func dup(conn *net.TCPConn) (fd int, ok bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, false
	}
	var errno syscall.Errno
	err = raw.Control(func(from uintptr) {
		var r uintptr
		r, _, errno = syscall.RawSyscall(syscall.SYS_FCNTL, from, syscall.F_DUPFD_CLOEXEC, 0)
		fd = int(r)
	})
	return fd, err == nil && errno == 0
}

func socketError(errno syscall.Errno) error {
	switch errno {
	case syscall.EAGAIN:
		return ErrFull
	case syscall.ETIMEDOUT:
		return ErrTimedOut
	case syscall.EHOSTUNREACH, syscall.ENETUNREACH: // instead of it, where a router or the neighbour's silence says more
		return ErrUnreachable
	}
	return errno
}

// send never waits: ErrFull when there is no room at all.
func send(fd int, p []byte) (int, error) {
	return transfer(syscall.SYS_SENDTO, fd, unsafe.SliceData(p), len(p), syscall.MSG_NOSIGNAL)
}

// receive reads what came in: 0 is the end, ErrFull nothing. It never waits.
func receive(fd int, p []byte) (int, error) {
	return transfer(syscall.SYS_RECVFROM, fd, unsafe.SliceData(p), len(p), 0)
}

// discarded is how many bytes are dropped at once.
const discarded = 64 << 10

// discard drops some of what came in: 0 is the end, ErrFull nothing.
func discard(fd int) (int, error) {
	var none byte // TCP copies nothing with MSG_TRUNC
	return transfer(syscall.SYS_RECVFROM, fd, &none, discarded, syscall.MSG_TRUNC)
}

// transfer is a raw system call, since the runtime need not know of one that cannot block.
func transfer(call uintptr, fd int, at *byte, size int, flags uintptr) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall6(call, uintptr(fd), uintptr(unsafe.Pointer(at)), uintptr(size), flags|syscall.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case syscall.EINTR:
		default:
			return 0, socketError(errno)
		}
	}
}

// shutdown ends our half of a socket.
func shutdown(fd int) { syscall.Shutdown(fd, syscall.SHUT_WR) }

// closeSocket closes after what came in is read: unread input would make it a
// reset, and the client might lose the last words.
func closeSocket(fd int) {
	discard(fd)
	giveBack(fd)
}

// giveBack closes a descriptor that dup made, and leaves what came in to who has the socket, too.
func giveBack(fd int) { syscall.RawSyscall(syscall.SYS_CLOSE, uintptr(fd), 0, 0) }

const (
	epollET  = 1 << 31
	hangUp   = syscall.EPOLLRDHUP | syscall.EPOLLHUP | syscall.EPOLLERR
	interest = syscall.EPOLLIN | syscall.EPOLLRDHUP | epollET
)

// epoll is a set of our own, which itself waits in Go's. A socket's data is its key.
type epoll struct {
	once sync.Once
	fd   int
	file *os.File
	err  error
}

// startPolling makes the set, once.
func (p *Poller) startPolling() error {
	p.set.once.Do(func() {
		if p.set.fd, p.set.err = syscall.EpollCreate1(syscall.EPOLL_CLOEXEC); p.set.err != nil {
			return
		}
		syscall.SetNonblock(p.set.fd, true) // makes os.File wait in Go's poller
		p.set.file = os.NewFile(uintptr(p.set.fd), "epoll")
		p.start(p.run)
	})
	return p.set.err
}

func (p *Poller) control(op int, events uint32, s *Socket, key Key) error {
	return syscall.EpollCtl(p.set.fd, op, int(s.fd), &syscall.EpollEvent{Events: events, Fd: int32(key.Place), Pad: int32(key.Generation)})
}

func (p *Poller) add(s *Socket, key Key) error {
	if err := p.startPolling(); err != nil {
		return err
	}
	return p.control(syscall.EPOLL_CTL_ADD, interest, s, key)
}

func (p *Poller) remove(s *Socket) { p.control(syscall.EPOLL_CTL_DEL, 0, s, Key{}) }

// AwaitRoom has the poller tell when a socket has room again, or has it already.
func (p *Poller) AwaitRoom(s *Socket, key Key) error {
	return p.control(syscall.EPOLL_CTL_MOD, interest|syscall.EPOLLOUT, s, key)
}

func (p *Poller) run() {
	raw, err := p.set.file.SyscallConn()
	if err != nil {
		return
	}
	found, n := make([]syscall.EpollEvent, AtOnce), 0
	wait := func(fd uintptr) bool {
		n, _ = syscall.EpollWait(int(fd), found, 0)
		return n > 0
	}
	events := make([]Event, 0, AtOnce)
	for raw.Read(wait) == nil { // until it is closed
		events = events[:0]
		for _, f := range found[:n] {
			events = append(events, Event{
				Key:    Key{Place: uint32(f.Fd), Generation: uint32(f.Pad)},
				Input:  f.Events&(syscall.EPOLLIN|hangUp) != 0,
				HungUp: f.Events&hangUp != 0,
			})
		}
		p.told(events)
	}
}

// Close ends the poller, which is not used again.
func (p *Poller) Close() {
	p.set.once.Do(func() {})
	if p.set.file != nil {
		p.set.file.Close()
	}
}
