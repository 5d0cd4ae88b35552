package main

import (
	"container/heap"
	"time"
)

// deadline is a place in the heap of what is due. Who sets it may leave it too early,
// and set the next when it has come: so an activity costs no reordering.
type deadline struct {
	at    time.Time
	index int // in the heap; meaningless while at is zero
}

func (d *deadline) when() *deadline { return d }

type deadlines []interface{ when() *deadline }

func (h deadlines) Len() int           { return len(h) }
func (h deadlines) Less(i, j int) bool { return h[i].when().at.Before(h[j].when().at) }
func (h deadlines) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].when().index, h[j].when().index = i, j
}
func (h *deadlines) Push(x any) {
	item := x.(interface{ when() *deadline })
	item.when().index = len(*h)
	*h = append(*h, item)
}
func (h *deadlines) Pop() any {
	end := len(*h) - 1
	item := (*h)[end]
	(*h)[end] = nil
	*h = (*h)[:end]
	if cap(*h) > 1024 && end < cap(*h)/4 {
		*h = append(make(deadlines, 0, 2*end), *h...)
	}
	return item
}

// set moves an item's deadline; a zero time removes it.
func (h *deadlines) set(item interface{ when() *deadline }, at time.Time) {
	d := item.when()
	pending := !d.at.IsZero()
	switch {
	case pending && at.IsZero():
		heap.Remove(h, d.index)
		d.at = at
	case pending:
		d.at = at
		heap.Fix(h, d.index)
	case !at.IsZero():
		d.at = at
		heap.Push(h, item)
	}
}
