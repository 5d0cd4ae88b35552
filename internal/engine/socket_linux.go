package engine

import (
	"net"
	"os"
	"runtime"
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
		return errFull
	case syscall.ETIMEDOUT:
		return errTimedOut
	case syscall.EHOSTUNREACH, syscall.ENETUNREACH: // instead of it, where a router or the neighbour's silence says more
		return errUnreachable
	}
	return errno
}

// send never waits: errFull when there is no room at all.
func send(fd int, p []byte) (int, error) {
	return transfer(syscall.SYS_SENDTO, fd, unsafe.SliceData(p), len(p), syscall.MSG_NOSIGNAL)
}

// receive reads what came in: 0 is the end, errFull nothing. It never waits.
func receive(fd int, p []byte) (int, error) {
	return transfer(syscall.SYS_RECVFROM, fd, unsafe.SliceData(p), len(p), 0)
}

// discard drops up to 64 KiB of what came in: 0 is the end, errFull nothing.
func discard(fd int) (int, error) {
	var none byte // TCP copies nothing with MSG_TRUNC
	return transfer(syscall.SYS_RECVFROM, fd, &none, maxInput, syscall.MSG_TRUNC)
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
	syscall.RawSyscall(syscall.SYS_CLOSE, uintptr(fd), 0, 0)
}

const (
	epollET  = 1 << 31
	hangUp   = syscall.EPOLLRDHUP | syscall.EPOLLHUP | syscall.EPOLLERR
	interest = syscall.EPOLLIN | syscall.EPOLLRDHUP | epollET
)

// poller is an epoll set of our own, which itself waits in Go's. An event's data
// is the stream's place in the table and that place's generation, since
// descriptor numbers are used again.
type poller struct {
	once sync.Once
	fd   int
	file *os.File
	err  error
}

func (p *poller) start(e *Engine) error {
	p.once.Do(func() {
		if p.fd, p.err = syscall.EpollCreate1(syscall.EPOLL_CLOEXEC); p.err != nil {
			return
		}
		syscall.SetNonblock(p.fd, true) // makes os.File wait in Go's poller
		p.file = os.NewFile(uintptr(p.fd), "epoll")
		e.background.Go(func() { p.run(e) })
	})
	return p.err
}

func (p *poller) control(op int, events uint32, s *Stream) error {
	return syscall.EpollCtl(p.fd, op, int(s.fd), &syscall.EpollEvent{Events: events, Fd: int32(s.place), Pad: int32(s.generation)})
}

func (p *poller) add(e *Engine, s *Stream) error {
	if err := p.start(e); err != nil {
		return err
	}
	return p.control(syscall.EPOLL_CTL_ADD, interest, s)
}

func (p *poller) remove(s *Stream) { p.control(syscall.EPOLL_CTL_DEL, 0, s) }

// awaitRoom has epoll tell when the socket has room again, or has it already.
func (p *poller) awaitRoom(s *Stream) error {
	return p.control(syscall.EPOLL_CTL_MOD, interest|syscall.EPOLLOUT, s)
}

// polledAtOnce is how many streams are told of input or room at once, and so how many goroutines
// read at once where nothing has them wait.
const polledAtOnce = 256

func (p *poller) run(e *Engine) {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return
	}
	events := make([]syscall.EpollEvent, polledAtOnce)
	n := 0
	for {
		err := raw.Read(func(fd uintptr) bool {
			n, _ = syscall.EpollWait(int(fd), events, 0)
			return n > 0
		})
		if err != nil {
			return // closed
		}
		var lists [maxShards]list
		for _, event := range events[:n] {
			s := e.at(uint32(event.Fd), uint32(event.Pad))
			if s != nil && s.signalled(event.Events&(syscall.EPOLLIN|hangUp) != 0, event.Events&hangUp != 0) {
				lists[s.shard.index].add(s)
			}
		}
		for i, sh := range e.shards {
			sh.push(&lists[i])
		}
		runtime.Gosched() // who reads is done before there are more
	}
}

func (p *poller) close() {
	p.once.Do(func() {})
	if p.file != nil {
		p.file.Close()
	}
}
