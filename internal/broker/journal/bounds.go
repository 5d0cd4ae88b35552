package journal

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/broker/ledger"
	"realtimehub/internal/broker/stream"
)

// One process counts the bytes that each key has in the stream; the broker tells it the sizes
// of messages. It purges the oldest messages of a key that exceeds its own bound, or of the
// largest key if all together exceed theirs. It does so before the broker would drop the
// oldest messages of everybody.
//
// Before a purge the process writes down how far it reaches, in the stream itself, at ".cut."
// and the key. A reader asks the stream's leader for that after it has read, so that it does
// not take purged messages for messages that never were. The note expires with the messages
// that it tells of.
//
// What comes before the stream's first message may have been lost to any key. So a purge must
// not move that beginning. An anchor is appended now and then, which no purge removes, only
// its age: between two of them the beginning does not move.
const (
	anchors     = 16 // at least so many while a message has its age
	anchorEvery = time.Hour
	anchorName  = "anchor" // of no key, which are in upper case
	alarmEvery  = time.Minute
)

// How much of the bound of all keys is used when the log warns (alarm), when the largest keys
// begin to lose their oldest messages (high), and when that stops (low).
func (c *Config) alarm() int64 { return c.Bytes - c.Bytes/4 }
func (c *Config) high() int64  { return c.Bytes - c.Bytes/8 }
func (c *Config) low() int64   { return c.Bytes - c.Bytes*3/16 }

// worth is how many bytes the stream has when counting begins: with fewer, no bound can be
// exceeded.
func (c *Config) worth() int64 {
	if c.KeyBytes > 0 && (c.Bytes == 0 || c.KeyBytes < c.Bytes/4) {
		return c.KeyBytes / 2
	}
	return c.Bytes / 8
}

// Cut is how many messages this process had purged: past their key's bound, and past
// that of all.
func (j *Journal) Cut() (ofKey, ofAll int64) { return j.cutKey.Load(), j.cutAll.Load() }

// KeepWithin has this process refuse what the stream may have no room for, and keep the
// bounds of bytes until Close while it is its turn, as mine says: of all that share the
// journal one at a time is enough, and more do no harm.
func (j *Journal) KeepWithin(mine func() bool) {
	j.space.guard()
	if j.cfg.Bytes > 0 || j.cfg.KeyBytes > 0 {
		j.done.Go(func() { j.keepWithin(mine) })
	}
}

func (j *Journal) keepWithin(mine func() bool) {
	ticker := time.NewTicker(probeEvery)
	defer ticker.Stop()
	for {
		select {
		case <-j.stream.Done():
			return
		case <-ticker.C:
		}
		if !mine() || !j.cfg.Connected() || j.bytes.Load() < j.cfg.worth() {
			continue
		}
		if err := j.keepTurn(mine); err != nil {
			j.cfg.Logger.Warn("the store could not be trimmed to its limits", "err", err)
		}
	}
}

// sized is a message's size in the stream.
type sized struct {
	key   string // as in subjects
	place uint64
	bytes int64
	more  bool // that was kept before
}

// keepTurn counts what the stream has, and what comes, and cuts what is past a bound.
func (j *Journal) keepTurn(mine func() bool) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	k := &keeper{j: j, ledger: ledger.New(j.cfg.KeyBytes)}
	before, err := j.state(ctx)
	if err != nil {
		return err
	}
	k.ledger.Keep(before.PerKey)
	in, ended, err := j.sizes(ctx)
	if err != nil {
		return err
	}
	ticker := time.NewTicker(probeEvery)
	defer ticker.Stop()
	epoch := j.Epoch()
	for {
		select {
		case <-j.stream.Done():
			return nil
		case <-ended:
			return errors.New("the store stopped sending what is stored")
		case <-ticker.C:
			if !mine() || j.Epoch() != epoch || !j.cfg.Connected() {
				return nil // another's, or to be counted anew
			}
			if err := k.look(ctx); err != nil {
				return err
			}
		case m := <-in:
			k.ledger.Add(m.key, m.place, m.bytes)
			k.whole = k.whole || !m.more || m.place >= before.Last
		}
		if err := k.cut(ctx); err != nil {
			return err
		}
	}
}

// sizes has the broker tell of all messages of keys, those that it has and those that
// come, but for their data, until ctx ends; or what it does has an end.
func (j *Journal) sizes(ctx context.Context) (in <-chan sized, ended <-chan struct{}, err error) {
	js, err := jetstream.New(j.nc)
	if err != nil {
		return nil, nil, err
	}
	once, cancel := context.WithTimeout(ctx, stream.MakeTimeout)
	defer cancel()
	consumer, err := js.OrderedConsumer(once, j.stream.Name, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{j.cfg.Prefix + ".ev.*"}, HeadersOnly: true, InactiveThreshold: time.Minute,
	})
	if err != nil {
		return nil, nil, err
	}
	told := make(chan sized, 1024)
	subject := j.cfg.Prefix + ".ev."
	consuming, err := consumer.Consume(func(msg jetstream.Msg) {
		about, err := msg.Metadata()
		if err != nil {
			return
		}
		m := sized{strings.TrimPrefix(msg.Subject(), subject), about.Sequence.Stream, sizeOf(msg), about.NumPending > 0}
		select {
		case told <- m:
		case <-ctx.Done():
		}
	})
	if err != nil {
		return nil, nil, err
	}
	j.done.Go(func() {
		<-ctx.Done()
		consuming.Stop()
		<-consuming.Closed()
	})
	return told, consuming.Closed(), nil
}

const sizeHeader = "Nats-Msg-Size"

// sizeOf is what a message takes in the broker's file, as it counts.
func sizeOf(msg jetstream.Msg) int64 {
	const record, headers = 22 + 8, 4 + len("NATS/1.0\r\n") + len("\r\n")
	n := record + len(msg.Subject())
	some := false
	for name, values := range msg.Headers() {
		if name == sizeHeader {
			continue
		}
		for _, value := range values {
			n += len(name) + len(value) + len(": \r\n")
			some = true
		}
	}
	if some {
		n += headers
	}
	data, _ := strconv.Atoi(msg.Headers().Get(sizeHeader))
	return int64(n + data)
}

// keeper is the one who keeps the bounds.
type keeper struct {
	j        *Journal
	ledger   *ledger.Ledger
	whole    bool      // all that there was is counted
	full     bool      // from high on until low is reached
	beside   int64     // the stream's bytes that are not in the ledger
	first    uint64    // the stream's first place
	anchored time.Time // when the last anchor was put in
	alarmed  time.Time // when it was last said that the stream is nearly full
}

func (k *keeper) total() int64 { return k.ledger.Total() + k.beside }

// look takes what the leader last told.
func (k *keeper) look(ctx context.Context) error {
	s, err := k.j.state(ctx)
	if err != nil {
		return err
	}
	if s.First > k.first {
		k.first = s.First
		k.ledger.Begin(s.First)
	}
	k.ledger.Keep(s.PerKey) // which another process may have changed
	k.beside = int64(s.Bytes) - k.ledger.Total()
	k.whole = k.whole || s.Messages == 0
	if all := k.j.cfg.Bytes; all > 0 && int64(s.Bytes) > k.j.cfg.alarm() && time.Since(k.alarmed) > alarmEvery {
		k.alarmed = time.Now()
		k.j.cfg.Logger.Warn("the store is nearly full; from seven eighths on, the tenants with the most history lose their oldest events", "bytes", s.Bytes, "limit", all)
	}
	return k.anchor(ctx)
}

// anchor puts an anchor in when it is time.
func (k *keeper) anchor(ctx context.Context) error {
	every := anchorEvery
	if age := k.j.cfg.Age; age > 0 {
		every = min(every, age/anchors)
	}
	if time.Since(k.anchored) < every {
		return nil
	}
	k.anchored = time.Now()
	_, _, err := k.j.stream.Request(ctx, stream.NewMessage(k.j.cutSubject(anchorName), nil))
	return err
}

// cut cuts whoever is past a bound.
func (k *keeper) cut(ctx context.Context) error {
	cfg := &k.j.cfg
	for {
		key, bytes, ok := k.ledger.Most()
		if !ok || !k.whole {
			return nil
		}
		excess := k.total() - cfg.low()
		k.full = cfg.Bytes > 0 && (k.total() > cfg.high() || k.full && excess > 0)
		goal, counted := int64(0), &k.j.cutKey
		switch {
		case cfg.KeyBytes > 0 && bytes > cfg.KeyBytes:
			goal = cfg.KeyBytes - cfg.KeyBytes/ledger.MostParts
		case k.full && k.beside <= cfg.Bytes/4: // else another may be larger, of which the broker has told little yet
			goal, counted = bytes-min(excess, bytes/8), &k.j.cutAll // the next may be nearly as large
		default:
			return nil
		}
		place := k.ledger.Cut(key, goal)
		if place == 0 {
			return nil
		}
		if err := k.anchor(ctx); err != nil {
			return err
		}
		purged, err := k.j.purge(ctx, key, place)
		if err != nil {
			return err
		}
		counted.Add(purged)
	}
}

func (j *Journal) cutSubject(key string) string { return j.cfg.Prefix + ".cut." + key }

// writeCut writes down that a key's messages up to a place are gone, or about to go.
func (j *Journal) writeCut(ctx context.Context, key string, place uint64) error {
	ctx, cancel := context.WithTimeout(ctx, stream.AskTimeout)
	defer cancel()
	subject := j.cutSubject(key)
	for {
		last, err := j.stream.Leader(ctx, stream.Get{Last: subject})
		if err != nil || stream.ParseSeq(string(last.Data)) >= place { // another was here
			return err
		}
		_, _, err = j.stream.Request(ctx, stream.NewMessage(subject, strconv.AppendUint(nil, place, 10),
			jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(last.Seq, 10)))
		if !stream.WasSecond(err) {
			return err
		}
		if !stream.Pause(ctx) {
			return ctx.Err()
		}
	}
}

// purge has the broker drop a key's messages up to a place, which is written down before.
func (j *Journal) purge(ctx context.Context, key string, place uint64) (messages int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, stream.AskTimeout)
	defer cancel()
	if err := j.writeCut(ctx, key, place); err != nil {
		return 0, err
	}
	return j.stream.Purge(ctx, j.cfg.Prefix+".ev."+key, place+1)
}

// cutOf asks the leader up to which place a key was purged: 0 where it never was.
func (j *Journal) cutOf(ctx context.Context, key string) (uint64, error) {
	last, err := j.stream.Leader(ctx, stream.Get{Last: j.cutSubject(stream.Token(key))})
	return stream.ParseSeq(string(last.Data)), err
}

// GoneError says that a key cannot be read from a place on: something has gone after it.
type GoneError struct{ Oldest uint64 } // the place from where on all is there

func (e *GoneError) Error() string { return "the messages after this place have gone" }

// whole asks whether nothing of a key has gone after a place; a *GoneError where it has.
// stream.ErrStale: who was asked does not know of another place that exists.
func (j *Journal) whole(ctx context.Context, key string, place, exists uint64) error {
	span, err := j.Span(ctx, key)
	switch {
	case err != nil:
		return err
	case span.Last < exists:
		return stream.ErrStale
	case place < span.Oldest:
		return &GoneError{span.Oldest}
	}
	return nil
}
