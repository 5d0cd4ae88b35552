package engine

import (
	"runtime"
	"sync"
)

// list is of streams whose claim it has, first come first.
type list struct{ first, last *Stream }

func (l *list) add(s *Stream) {
	if l.first == nil {
		l.first = s
	} else {
		l.last.next = s
	}
	l.last = s
}

// take is the first stream, or nil.
func (l *list) take() *Stream {
	s := l.first
	if s != nil {
		l.first, s.next = s.next, nil
	}
	return s
}

// shard is one writer's streams: a stream is always written by the same one.
type shard struct {
	index int           // static
	wake  chan struct{} // one token: ready is not empty

	mu    sync.Mutex
	ready list // guarded by mu

	tally tally
}

// push gives all of a list to the writer.
func (sh *shard) push(l *list) {
	if l.first == nil {
		return
	}
	sh.mu.Lock()
	wake := sh.ready.first == nil
	if wake {
		sh.ready = *l
	} else {
		sh.ready.last.next = l.first
		sh.ready.last = l.last
	}
	sh.mu.Unlock()
	*l = list{}
	if wake {
		select {
		case sh.wake <- struct{}{}:
		default:
		}
	}
}

// yieldAfter writes the writer lets others run: on one core it would keep
// publishers waiting, and what they publish meanwhile costs no write more.
const yieldAfter = 64

func (sh *shard) run(stop <-chan struct{}) {
	buf := make([]byte, 0, chunk)
	writes := 0
	for {
		select {
		case <-stop:
			return
		case <-sh.wake:
		}
		sh.mu.Lock()
		streams := sh.ready
		sh.ready = list{}
		sh.mu.Unlock()
		for s := streams.take(); s != nil; s = streams.take() {
			s.write(buf)
			if writes++; writes%yieldAfter == 0 {
				runtime.Gosched()
			}
		}
	}
}
