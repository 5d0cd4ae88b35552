package due

import (
	"container/heap"
	"time"
)

// Item is the place of something in a queue. The zero value is in none.
type Item struct {
	at    time.Time
	index int // in the heap; meaningless while at is zero
}

// At is when the item is due; the zero time if it is in no queue.
func (i *Item) At() time.Time { return i.at }

// Owner is what can be queued. Due is always the same Item.
type Owner interface{ Due() *Item }

// Queue orders items by when they are due. An item's time may be left too early and set
// again when it has come, so that what puts it off costs no reordering. The zero value is
// empty. It has no lock.
type Queue[T Owner] struct{ heap items[T] }

// Len is how many items are in the queue.
func (q *Queue[T]) Len() int { return len(q.heap) }

// First is what is due first, and when. The queue must not be empty.
func (q *Queue[T]) First() (T, time.Time) { return q.heap[0], q.heap[0].Due().at }

// Next is what is due first, if that is due by now. It stays in the queue.
func (q *Queue[T]) Next(now time.Time) (item T, ok bool) {
	if len(q.heap) == 0 || q.heap[0].Due().at.After(now) {
		return item, false
	}
	return q.heap[0], true
}

// Set has an item due at a time, whether it was queued or not. The zero time removes it.
func (q *Queue[T]) Set(item T, at time.Time) {
	d := item.Due()
	was := !d.at.IsZero()
	switch {
	case was && at.IsZero():
		heap.Remove(&q.heap, d.index)
		d.at = at
	case was:
		d.at = at
		heap.Fix(&q.heap, d.index)
	case !at.IsZero():
		d.at = at
		heap.Push(&q.heap, item)
	}
}

type items[T Owner] []T

func (h items[T]) Len() int           { return len(h) }
func (h items[T]) Less(i, j int) bool { return h[i].Due().at.Before(h[j].Due().at) }
func (h items[T]) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].Due().index, h[j].Due().index = i, j
}
func (h *items[T]) Push(x any) {
	item := x.(T)
	item.Due().index = len(*h)
	*h = append(*h, item)
}

// Pop implements heap.Interface. It gives memory back when the queue has become small.
func (h *items[T]) Pop() any {
	end := len(*h) - 1
	item := (*h)[end]
	clear((*h)[end:])
	*h = (*h)[:end]
	if cap(*h) > 1024 && end < cap(*h)/4 {
		*h = append(make(items[T], 0, 2*end), *h...)
	}
	return item
}
