package lobby

import (
	"container/heap"
	"container/list"
	"net/netip"
	"time"
)

// holder is what one address has in the lobby.
type holder struct {
	addr     netip.Addr
	conns    list.List // of *guest, the oldest first
	requests int
	oldest   *visit // of requests; what follows is younger
	youngest *visit
	heavy    int64  // bytes that its connections have brought past what each costs
	at       [3]int // in Lobby.most, Lobby.busiest and Lobby.heaviest
}

// holders are a heap, the one with most first, of several who has the oldest.
type holders struct {
	list []*holder
	by   measure
}

// measure is of what holders have most.
type measure int

const (
	byConnections measure = iota
	byRequests
	byBytes // that connections have brought; only those that have some are in the heap
)

func (h *holders) size(i int) (n int, since time.Time) {
	switch x := h.list[i]; h.by {
	case byConnections:
		if n = x.conns.Len(); n > 0 {
			since = x.conns.Front().Value.(*guest).came
		}
	case byRequests:
		if n = x.requests; n > 0 {
			since = x.oldest.came
		}
	case byBytes:
		n = int(x.heavy)
	}
	return n, since
}

func (h *holders) Len() int { return len(h.list) }

func (h *holders) Less(i, j int) bool {
	a, first := h.size(i)
	b, second := h.size(j)
	return a > b || a == b && first.Before(second)
}

func (h *holders) Swap(i, j int) {
	h.list[i], h.list[j] = h.list[j], h.list[i]
	h.list[i].at[h.by], h.list[j].at[h.by] = i, j
}

func (h *holders) Push(x any) {
	x.(*holder).at[h.by] = len(h.list)
	h.list = append(h.list, x.(*holder))
}

func (h *holders) Pop() any {
	end := len(h.list) - 1
	last := h.list[end]
	h.list[end] = nil
	h.list = h.list[:end]
	return last
}

// holderLocked is an address's, made if need be.
func (l *Lobby) holderLocked(addr netip.Addr) *holder {
	addr = Place(addr)
	h := l.of[addr]
	if h == nil {
		h = &holder{addr: addr}
		l.of[addr] = h
		heap.Push(&l.most, h)
		heap.Push(&l.busiest, h)
	}
	return h
}

// tidyLocked puts a holder where it belongs, or away when it holds nothing.
func (l *Lobby) tidyLocked(h *holder) {
	if h.conns.Len() == 0 && h.requests == 0 {
		heap.Remove(&l.most, h.at[byConnections])
		heap.Remove(&l.busiest, h.at[byRequests])
		delete(l.of, h.addr)
		return
	}
	heap.Fix(&l.most, h.at[byConnections])
	heap.Fix(&l.busiest, h.at[byRequests])
}
