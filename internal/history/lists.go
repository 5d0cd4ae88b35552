package history

import (
	"container/heap"
	"iter"
	"slices"

	"realtimehub/internal/event"
	"realtimehub/internal/sized"
)

// Queue is first in, first out. It has at most three times the places that it needs.
type Queue[T any] struct {
	Items []T
	gone  int // places in front of them, which still take memory
}

func (q *Queue[T]) Len() int { return len(q.Items) }

func (q *Queue[T]) At(i int) T { return q.Items[i] }

// Places is how many it has.
func (q *Queue[T]) Places() int { return q.gone + cap(q.Items) }

func (q *Queue[T]) Push(x T) {
	if len(q.Items) == cap(q.Items) {
		q.gone = 0 // they stay behind
	}
	q.Items = append(q.Items, x)
}

func (q *Queue[T]) Pop() T {
	x := q.Items[0]
	clear(q.Items[:1])
	q.Items = q.Items[1:]
	q.gone++
	switch n := len(q.Items); {
	case n == 0:
		*q = Queue[T]{}
	case q.Places() > 3*n:
		*q = Queue[T]{Items: append(make([]T, 0, n), q.Items...)}
	}
	return x
}

// index is numbers by whom they are for.
type index[K interface {
	comparable
	Bytes() int64
}] struct {
	queues sized.Table[K, *Queue[uint64]]
	bytes  int64 // of the names and the numbers
}

// What an index takes beside its map, as measured.
const (
	indexQueue = 32
	indexPlace = 8 // of a number
)

// weight is the memory that it takes.
func (x *index[K]) weight() int64 { return x.bytes + x.queues.Bytes() }

func (x *index[K]) push(k K, n uint64) {
	q := x.queues.Get(k)
	if q == nil {
		q = new(Queue[uint64])
		x.queues.Put(k, q)
		x.bytes += k.Bytes() + indexQueue
	}
	x.bytes -= int64(q.Places()) * indexPlace
	q.Push(n)
	x.bytes += int64(q.Places()) * indexPlace
}

func (x *index[K]) pop(k K) {
	q := x.queues.Get(k)
	x.bytes -= int64(q.Places()) * indexPlace
	q.Pop()
	x.bytes += int64(q.Places()) * indexPlace
	if q.Len() == 0 {
		x.queues.Delete(k)
		x.bytes -= k.Bytes() + indexQueue
	}
}

// all are the queues of all.
func (x *index[K]) all() iter.Seq[*Queue[uint64]] { return x.queues.Values() }

// numbers are those for one, the first who came first.
func (x *index[K]) numbers(k K) []uint64 {
	if q := x.queues.Get(k); q != nil {
		return q.Items
	}
	return nil
}

// lists are entries' numbers by whom they are for.
type lists struct {
	tenant   Queue[uint64]
	profiles index[event.Profile]
	rooms    index[event.Room]
}

// Weight is the memory that they take.
func (l *lists) Weight() int64 {
	return int64(l.tenant.Places())*indexPlace + l.profiles.weight() + l.rooms.weight()
}

func (l *lists) add(e *event.Event, n uint64) {
	if e.Target.Kind == event.KindTenant {
		l.tenant.Push(n)
	}
	if room, ok := e.Target.Room(); ok {
		l.rooms.push(room, n)
	}
	for _, p := range e.Target.Profiles {
		l.profiles.push(p, n)
	}
}

// remove takes the oldest entry's numbers out, the first of each of its lists.
func (l *lists) remove(e *event.Event) {
	if e.Target.Kind == event.KindTenant {
		l.tenant.Pop()
	}
	if room, ok := e.Target.Room(); ok {
		l.rooms.pop(room)
	}
	for _, p := range e.Target.Profiles {
		l.profiles.pop(p)
	}
}

// runs are ascending numbers from several lists, taken in one order.
type runs struct {
	lists    [][]uint64
	from, to uint64 // instead of lists, all of these
}

func (r *runs) whole(from, to uint64) { r.from, r.to = from, to }

// add takes a list's numbers after one, up to another.
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
