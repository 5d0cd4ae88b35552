package history

import (
	"container/heap"
	"iter"
	"slices"

	"realtimehub/internal/event"
	"realtimehub/internal/sized"
)

// queue is first in, first out. It takes at most three times the memory that it needs.
type queue[T any] struct {
	items []T
	gone  int // places before them, which still take memory
}

func (q *queue[T]) len() int { return len(q.items) }

func (q *queue[T]) at(i int) T { return q.items[i] }

// places is how many items it has memory for.
func (q *queue[T]) places() int { return q.gone + cap(q.items) }

func (q *queue[T]) push(x T) {
	if len(q.items) == cap(q.items) {
		q.gone = 0 // the items move, and those places stay behind
	}
	q.items = append(q.items, x)
}

func (q *queue[T]) pop() T {
	x := q.items[0]
	clear(q.items[:1])
	q.items = q.items[1:]
	q.gone++
	switch n := len(q.items); {
	case n == 0:
		*q = queue[T]{}
	case q.places() > 3*n:
		*q = queue[T]{items: append(make([]T, 0, n), q.items...)}
	}
	return x
}

// index is the numbers of entries by whom they are for.
type index[K interface {
	comparable
	Bytes() int64
}] struct {
	queues sized.Table[K, *queue[uint64]]
	bytes  int64 // of the names and the numbers
}

// What an index takes beside its map, as measured.
const (
	indexQueue = 32
	indexPlace = 8 // of a number
)

// weight is the memory that it takes.
func (i *index[K]) weight() int64 { return i.bytes + i.queues.Bytes() }

// push adds a number for a key.
func (i *index[K]) push(k K, n uint64) {
	q := i.queues.Get(k)
	if q == nil {
		q = new(queue[uint64])
		i.queues.Put(k, q)
		i.bytes += k.Bytes() + indexQueue
	}
	i.bytes -= int64(q.places()) * indexPlace
	q.push(n)
	i.bytes += int64(q.places()) * indexPlace
}

// pop removes the first number for a key.
func (i *index[K]) pop(k K) {
	q := i.queues.Get(k)
	i.bytes -= int64(q.places()) * indexPlace
	q.pop()
	i.bytes += int64(q.places()) * indexPlace
	if q.len() == 0 {
		i.queues.Delete(k)
		i.bytes -= k.Bytes() + indexQueue
	}
}

// all are the queues of all keys.
func (i *index[K]) all() iter.Seq[*queue[uint64]] { return i.queues.Values() }

// numbers are those of one key, in their order.
func (i *index[K]) numbers(k K) []uint64 {
	if q := i.queues.Get(k); q != nil {
		return q.items
	}
	return nil
}

// lists are the numbers of a shelf's entries by whom they are for.
type lists struct {
	tenant   queue[uint64]
	profiles index[event.Profile]
	rooms    index[event.Room]
	wide     queue[wide]
	mentions int // in wide
}

// weight is the memory that they take.
func (l *lists) weight() int64 {
	return int64(l.tenant.places())*indexPlace + l.profiles.weight() + l.rooms.weight() +
		int64(l.wide.places())*wideBytes + int64(l.mentions)*mentionBytes
}

// add adds the number of the newest entry.
func (l *lists) add(e *Entry, n uint64) {
	if e.Prepare(); e.people != nil {
		l.wide.push(wide{n, e.people})
		l.mentions += len(e.people.byHash)
		return
	}
	l.list(e.Event, n)
}

func (l *lists) list(e *event.Event, n uint64) {
	if e.Target.Kind == event.KindTenant {
		l.tenant.push(n)
	}
	if room, ok := e.Target.Room(); ok {
		l.rooms.push(room, n)
	}
	for _, p := range e.Target.Profiles {
		l.profiles.push(p, n)
	}
}

// remove removes the number of the oldest entry, which is the first in each of its lists.
func (l *lists) remove(e *Entry) {
	if e.people != nil {
		l.mentions -= len(l.wide.pop().people.byHash)
		return
	}
	l.unlist(e.Event)
}

func (l *lists) unlist(e *event.Event) {
	if e.Target.Kind == event.KindTenant {
		l.tenant.pop()
	}
	if room, ok := e.Target.Room(); ok {
		l.rooms.pop(room)
	}
	for _, p := range e.Target.Profiles {
		l.profiles.pop(p)
	}
}

// wideFor are the numbers after one of the wide entries that are for a profile, in their order.
func (l *lists) wideFor(p event.Profile, after uint64) (numbers []uint64) {
	for _, w := range l.wide.items {
		if w.number > after && w.people.has(p) {
			numbers = append(numbers, w.number)
		}
	}
	return numbers
}

// runs merges ascending numbers from several lists. It is a heap of the lists by their first.
type runs struct {
	lists    [][]uint64
	from, to uint64 // where there are no lists: all of these
}

// whole has it go through all numbers from one up to another, instead of lists.
func (r *runs) whole(from, to uint64) { r.from, r.to = from, to }

// add adds those numbers of a list that come after one, up to another.
func (r *runs) add(list []uint64, after, until uint64) {
	if len(list) == 0 || list[len(list)-1] <= after {
		return
	}
	first, _ := slices.BinarySearch(list, after+1)
	list = list[first:]
	if list[len(list)-1] > until {
		end, _ := slices.BinarySearch(list, until+1)
		list = list[:end]
	}
	if len(list) > 0 {
		r.lists = append(r.lists, list)
	}
}

// next is the next number; false after the last. One that is in several lists comes as often.
func (r *runs) next() (uint64, bool) {
	if len(r.lists) == 0 {
		n := r.from
		r.from++
		return n, n > 0 && n <= r.to
	}
	n := r.lists[0][0]
	if r.lists[0] = r.lists[0][1:]; len(r.lists[0]) == 0 {
		heap.Pop(r)
	} else {
		heap.Fix(r, 0)
	}
	return n, true
}

func (r *runs) Len() int { return len(r.lists) }

func (r *runs) Less(i, j int) bool { return r.lists[i][0] < r.lists[j][0] }

func (r *runs) Swap(i, j int) { r.lists[i], r.lists[j] = r.lists[j], r.lists[i] }

func (r *runs) Push(x any) { r.lists = append(r.lists, x.([]uint64)) }

func (r *runs) Pop() any {
	end := len(r.lists) - 1
	list := r.lists[end]
	r.lists = r.lists[:end]
	return list
}
