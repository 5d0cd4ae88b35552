package journal

import (
	"context"
	"fmt"
	"maps"
	"math"
	"strings"
	"sync"

	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/broker/stream"
)

// Missing messages of a key are noticed, whoever removed them. Each message names an earlier
// one of its key, if its publisher knew one. If it did not, the limit on a key's messages
// tells, as it stands in the stream's configuration: another process may have another setting.

// before is a lower bound of the place of the message's predecessor in its key: 0 where nothing
// is known of one.
func (m *Message) before() uint64 {
	switch {
	case m.origin.at > 0: // what came with it has the places before it
		return m.Seq - 1 - uint64(min(m.origin.passes, int(m.Seq-1)))
	case m.origin.prev < m.Seq:
		return m.origin.prev
	}
	return 0
}

// unbroken counts the messages of a key, from the first of list on, between which none is known
// to be missing, and none between after and the first. If one is missing before the next
// message, gone is the place up to which; otherwise it is 0.
func unbroken(after uint64, list []Message) (n int, gone uint64) {
	for i := range list {
		if before := list[i].before(); before > after {
			return i, before
		}
		after = list[i].Seq
	}
	return len(list), 0
}

// knows is the last place of a key's that this process knows of in a life: 0 where it
// knows none.
func (j *Journal) knows(l *life, key string) uint64 {
	place := l.lasts.of(key)
	if f := j.feed(key); f != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.of == l {
			place = max(place, f.last)
		}
	}
	return place
}

// isCut asks the leader whether the message at a place is gone. Only a server that has a later
// message can say so: others may not have received it yet.
func (j *Journal) isCut(ctx context.Context, l *life, place uint64) (gone bool, err error) {
	from := stream.Get{Seq: place, Next: ">"}
	next, err := j.stream.Leader(ctx, from)
	if err == nil && next.Seq == 0 {
		if _, err = j.prove(ctx); err == nil {
			next, err = j.stream.Leader(ctx, from)
		}
	}
	if err == nil && (next.Seq == 0 || j.life.Load() != l) {
		err = stream.ErrStale
	}
	return err == nil && next.Seq > place, err
}

// cutAt asks whether a key's message at a place is gone, and writes it down then, for those
// who have not seen it there.
func (j *Journal) cutAt(ctx context.Context, l *life, key string, place uint64) (gone bool, err error) {
	if gone, err = j.isCut(ctx, l, place); !gone {
		return false, err
	}
	if j.purged.due() {
		j.cfg.Logger.Warn("messages that should have been kept were purged from the store", "key", key, "place", place)
	}
	return true, j.writeCut(ctx, stream.Token(key), place)
}

// missing is called when the last message that a feed has taken seems to have been removed
// before the next one was stored.
func (f *feed) missing(place uint64) {
	if place < f.j.first.Load() { // it had its age
		return
	}
	l := f.of
	f.j.done.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*stream.AskTimeout)
		defer cancel()
		if _, err := f.j.cutAt(ctx, l, f.key, place); err != nil {
			f.j.cfg.Logger.Debug("could not find out whether a message was purged", "key", f.key, "place", place, "err", err)
		}
	})
}

// lasts are the last places of what this process has appended in one life, by key. Of many, those of
// keys that were not appended to for longest are forgotten.
type lasts struct {
	mu         sync.Mutex
	young, old map[string]uint64 // guarded by mu
}

const mostLasts = 1 << 14 // in one generation

func (l *lasts) note(key string, place uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.young[key]; !known {
		if l.young == nil || len(l.young) >= mostLasts {
			l.old, l.young = l.young, map[string]uint64{}
		}
		key = strings.Clone(key) // it may be a piece of a whole request
	}
	l.young[key] = max(l.young[key], place)
}

func (l *lasts) of(key string) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(l.young[key], l.old[key])
}

// past is the least limit of a key's messages that the stream had before, and the last
// place at which it may have had it. It is in the stream's configuration.
type past struct {
	most  int64 // 0: none
	until uint64
}

const (
	pastKey = "least_per_subject"
	notYet  = math.MaxUint64 // a place that is not known yet
)

func (p past) String() string { return fmt.Sprintf("%d %d", p.most, p.until) }

func parsePast(text string) (p past) {
	if n, err := fmt.Sscan(text, &p.most, &p.until); n < 2 || err != nil {
		return past{}
	}
	return p
}

// adapt makes the stream as it is to be, and remembers in it what limit it had.
func (j *Journal) adapt(ctx context.Context, js jetstream.JetStream, config jetstream.StreamConfig) error {
	was, err := js.Stream(ctx, j.stream.Name)
	if err != nil {
		return err
	}
	old := was.CachedInfo().Config
	p, most := parsePast(old.Metadata[pastKey]), config.MaxMsgsPerSubject
	if before := old.MaxMsgsPerSubject; before > 0 && (most <= 0 || most > before) {
		if p.most == 0 || before < p.most {
			p.most = before
		}
		p.until = notYet // until it has been raised
	}
	config.Metadata = maps.Clone(old.Metadata)
	old.Metadata = config.Metadata
	for _, limit := range lowered(old.MaxMsgsPerSubject, most, was.CachedInfo().State.Msgs) {
		old.MaxMsgsPerSubject = limit
		if _, err := js.UpdateStream(ctx, old); err != nil {
			return err
		}
	}
	for {
		if p.most > 0 {
			if config.Metadata == nil {
				config.Metadata = map[string]string{}
			}
			config.Metadata[pastKey] = p.String()
		}
		now, err := js.UpdateStream(ctx, config)
		if err != nil || p.until != notYet {
			return err
		}
		info, err := now.Info(ctx)
		if err != nil {
			return err
		}
		p.until = info.State.LastSeq
	}
}

// lowered returns the steps in which a limit on a subject's messages is lowered from one value
// to another. A server that lowers the limit removes messages of a subject while new ones are
// stored, which remove some as well, so that it may remove the same number twice, up to the
// newest. Each step therefore removes only half of the excess. Even if that happens twice, the
// messages that are to stay are still there.
func lowered(from, to int64, messages uint64) (limits []int64) {
	if most := int64(messages); from <= 0 || from > most {
		from = most // no subject has more
	}
	if to <= 0 {
		return nil
	}
	for excess := (from - to) / 2; excess > 0; excess /= 2 {
		limits = append(limits, to+excess)
	}
	return limits
}

// goneOf is the place up to which messages of a key may be missing. It follows from the key's
// first message and how many it has, as any replica tells them. cut is the place up to which
// they are known to be missing already.
func (j *Journal) goneOf(ctx context.Context, l *life, key string, s stream.State, first Message, count int64, cut uint64) (uint64, error) {
	if count == 0 {
		known := j.knows(l, key)
		if known <= cut || known < s.First {
			return cut, nil
		}
		gone, err := j.cutAt(ctx, l, key, known) // else a replica is behind
		if gone {
			cut = known
		}
		return cut, err
	}
	place, past := first.before(), parsePast(s.Metadata[pastKey])
	switch {
	case s.PerKey > 0 && count >= s.PerKey:
		place = first.Seq // the oldest tells what the last one is that can't be read
	case past.most > 0 && count >= past.most && first.Seq <= past.until:
		place = first.Seq - 1 // who published the oldest may not have known of the one before it
	}
	return max(place, cut), nil
}
