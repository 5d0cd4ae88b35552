package main

import (
	"container/heap"
	"slices"
)

// queue is first in, first out; what left the front is freed as it grows.
type queue[T any] struct{ items []T }

func (q *queue[T]) len() int { return len(q.items) }

func (q *queue[T]) at(i int) T { return q.items[i] }

func (q *queue[T]) push(x T) { q.items = append(q.items, x) }

func (q *queue[T]) pop() T {
	x := q.items[0]
	clear(q.items[:1])
	if q.items = q.items[1:]; len(q.items) == 0 {
		q.items = nil
	}
	return x
}

// lists are entries' numbers by whom they are for.
type lists struct {
	tenant   queue[uint64]
	profiles map[ProfileRef]queue[uint64]
	rooms    map[Room]queue[uint64]
}

func (l *lists) add(e *Event, n uint64) {
	if e.Target.Kind == KindTenant {
		l.tenant.push(n)
		return
	}
	if l.profiles == nil {
		l.profiles, l.rooms = map[ProfileRef]queue[uint64]{}, map[Room]queue[uint64]{}
	}
	if room, ok := e.Target.Room(); ok {
		pushTo(l.rooms, room, n)
	}
	for _, p := range e.Target.Profiles {
		pushTo(l.profiles, p, n)
	}
}

func pushTo[K comparable](m map[K]queue[uint64], k K, n uint64) {
	q := m[k]
	q.push(n)
	m[k] = q
}

// remove takes the oldest entry's numbers out, the first of each of its lists.
func (l *lists) remove(e *Event) {
	if e.Target.Kind == KindTenant {
		l.tenant.pop()
	}
	if room, ok := e.Target.Room(); ok {
		popFrom(l.rooms, room)
	}
	for _, p := range e.Target.Profiles {
		popFrom(l.profiles, p)
	}
}

func popFrom[K comparable](m map[K]queue[uint64], k K) {
	q := m[k]
	q.pop()
	if m[k] = q; q.len() == 0 {
		delete(m, k)
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
