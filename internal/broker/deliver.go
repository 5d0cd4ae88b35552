package broker

import (
	"realtimehub/internal/broker/journal"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
)

// entryOf is an item as it is handed on; nil for what is no event, which is told of
// once, when the item is prepared for or else handled.
func (s *sharedLog) entryOf(it *journal.Item, epoch history.Epoch) *history.Entry {
	e, _ := it.Own.(*history.Entry)
	if e == nil {
		if _, told := it.Own.(error); told {
			return nil
		}
		decoded, err := event.DecodeStored(it.Data)
		if err != nil {
			it.Own = err
			s.unread.Add(1)
			s.logger.Error("store: a stored message cannot be read as an event and is skipped", "tenant", it.Key, "place", it.Seq, "err", err)
			return nil
		}
		e = &history.Entry{Event: decoded, Envelope: decoded.Seal()}
		e.Prepare()
		it.Own = e
	}
	if !it.Pass {
		e.Cursor = history.Cursor{Epoch: epoch, Seq: it.Seq}
	}
	return e
}

func (s *sharedLog) entriesOf(items []*journal.Item, epoch history.Epoch) []*history.Entry {
	entries := make([]*history.Entry, 0, len(items))
	for _, it := range items {
		if e := s.entryOf(it, epoch); e != nil {
			entries = append(entries, e)
		}
	}
	return entries
}

// handle takes what follows next in a tenant's order.
func (s *sharedLog) handle(tenant string, items []*journal.Item) {
	entries := s.near.Take(tenant, func(epoch history.Epoch) []*history.Entry { return s.entriesOf(items, epoch) })
	if len(entries) > 0 {
		for _, sink := range s.sinks {
			sink.Deliver(tenant, entries)
		}
	}
}

func (s *sharedLog) flush(tenant string) {
	for _, sink := range s.sinks {
		sink.Flush(tenant)
	}
	s.near.Shrink()
}

func (s *sharedLog) prepare(tenant string, items []*journal.Item) {
	for _, sink := range s.sinks {
		sink.Prepare(tenant, s.entriesOf(items, s.Epoch(tenant)))
	}
}

func (s *sharedLog) quiet(tenant string, place uint64) {
	c, ok := s.near.Advance(tenant, place)
	if !ok {
		return
	}
	for _, sink := range s.sinks {
		sink.Quiet(tenant, c)
	}
}

func (s *sharedLog) lost(tenant string, place uint64) {
	c := s.near.Reset(tenant, place)
	for _, sink := range s.sinks {
		sink.Lost(tenant, c)
	}
}
