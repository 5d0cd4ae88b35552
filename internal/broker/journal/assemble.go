package journal

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"realtimehub/internal/broker/stream"
)

// origin says who appended a message, and its place among what came with it.
type origin struct {
	node   string
	number uint64
	at, of int // of the key's messages in that append
	passes int // of the key's items in that append, passed beside them

	prev uint64 // a place of the key's before all of them; 0: the node knew of none
}

const (
	originHeader = "Origin"
	besideHeader = "Beside"
)

// String has the place with the node's name: who does not know it takes it for a part of
// the name.
func (o origin) String() string {
	b := append(make([]byte, 0, 64), o.node...)
	if o.prev > 0 {
		b = strconv.AppendUint(append(b, prevMark), o.prev, 10)
	}
	for _, n := range [...]uint64{o.number, uint64(o.at), uint64(o.of), uint64(o.passes)} {
		b = strconv.AppendUint(append(b, ' '), n, 10)
	}
	return string(b)
}

const prevMark = '/'

// parseOrigin reads what String writes; anything else is a message by itself.
func parseOrigin(text string) origin {
	o := origin{of: 1}
	f := strings.Fields(text)
	if len(f) != 5 {
		return o
	}
	node, prev, _ := strings.Cut(f[0], string(prevMark))
	o.node, o.prev = node, stream.ParseSeq(prev)
	o.number, _ = strconv.ParseUint(f[1], 10, 64)
	o.at, _ = strconv.Atoi(f[2])
	o.of, _ = strconv.Atoi(f[3])
	o.passes, _ = strconv.Atoi(f[4])
	return o
}

// passTime is how long items that go with messages wait for them.
const passTime = 5 * time.Second

// pass is an item that goes with messages.
type pass struct {
	origin  origin
	item    *Item
	came    time.Time
	waiting bool // for its messages; else they were there before it
}

// assembleLocked makes items of messages: our own as they were given to Append, and
// others with what was passed beside them in its place.
func (f *feed) assembleLocked() ready {
	part := f.part
	f.part = nil
	o := part[0].origin
	if o.node == f.j.cfg.Node && len(part) == o.of {
		if items, done := f.j.takeOwn(f.key, o); items != nil {
			i := 0
			for _, it := range items {
				if !it.Pass {
					it.Seq, it.At, it.beside = part[i].Seq, part[i].At, part[i].beside
					i++
				}
			}
			return ready{items: items, done: done}
		}
	}
	var beside []pass
	if o.passes > 0 {
		now := time.Now()
		keep := f.early[:0]
		for _, p := range f.early {
			switch {
			case p.waiting && p.origin.node == o.node && p.origin.number == o.number:
				beside = append(beside, p)
			case now.Sub(p.came) < passTime:
				keep = append(keep, p)
			}
		}
		f.early = append(keep, pass{origin: o, came: now}) // the messages were here
	}
	var items []*Item
	for i, m := range part {
		for len(beside) > 0 && beside[0].origin.at <= i {
			items = append(items, beside[0].item)
			beside = beside[1:]
		}
		items = append(items, &Item{Key: f.key, Data: m.Data, Seq: m.Seq, At: m.At, beside: m.beside})
	}
	for _, p := range beside {
		items = append(items, p.item)
	}
	return ready{items: items}
}

// passLocked hands on an item that is not kept; one that goes with messages waits
// for them, unless they were here.
func (f *feed) passLocked(it *Item, o origin) {
	if f.closed {
		return
	}
	if o.of > 0 && o.node != "" {
		came := slices.ContainsFunc(f.early, func(p pass) bool {
			return !p.waiting && p.origin.node == o.node && p.origin.number == o.number
		})
		if !came {
			now, size := time.Now(), len(it.Data)
			f.early = slices.DeleteFunc(f.early, func(p pass) bool {
				old := now.Sub(p.came) >= passTime
				if p.waiting && !old {
					size += len(p.item.Data)
				}
				return old
			})
			if len(f.early) < mostHeld && size <= mostReadyBytes {
				f.early = append(f.early, pass{o, it, now, true})
			}
			return
		}
	}
	f.giveLocked(ready{items: []*Item{it}})
}
