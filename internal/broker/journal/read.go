package journal

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"realtimehub/internal/broker/stream"
)

// How many messages are asked for at once, and bytes: the more, the longer one reads.
const (
	readBatch = 512
	readBytes = 128 << 10
	mostBytes = 4 << 20
)

const (
	readPatience = 3 * time.Second        // that an answer may take, however often it is asked for
	mostWait     = 200 * time.Millisecond // before it is asked for again
)

// Message is one that is kept.
type Message struct {
	Seq    uint64
	At     time.Time
	Data   []byte
	kept   bool // false: only its id is
	origin origin
	beside []string
	prev   uint64 // of its key; told by what is republished only
}

func (j *Journal) messageOf(msg *nats.Msg) Message {
	at, _ := time.Parse(time.RFC3339Nano, msg.Header.Get("Nats-Time-Stamp"))
	subject, _ := strings.CutPrefix(msg.Header.Get("Nats-Subject"), j.cfg.Prefix)
	return Message{
		stream.ParseSeq(msg.Header.Get("Nats-Sequence")), at, msg.Data, strings.HasPrefix(subject, ".ev."),
		parseOrigin(msg.Header.Get(originHeader)), msg.Header[besideHeader], stream.ParseSeq(msg.Header.Get("Nats-Last-Sequence")),
	}
}

// Read reads a key's messages after a place up to another that is known to exist,
// in parts, until take says that it is enough. A *GoneError where some had gone when a
// part was read: what was taken before is whole. It asks again where a part could not be read,
// or a replica lags behind, but no more than 3 s without anything new.
func (j *Journal) Read(ctx context.Context, key string, after, until uint64, take func([]Message) bool) error {
	return j.read(ctx, j.life.Load(), key, after, until, take)
}

// read is Read of places of a life; stream.ErrStale once that is over.
func (j *Journal) read(ctx context.Context, l *life, key string, after, until uint64, take func([]Message) bool) error {
	for bytes := readBytes; after < until; bytes = min(2*bytes, mostBytes) {
		list, err := j.nextPart(ctx, l, key, after, until, bytes)
		if err != nil || len(list) == 0 || !take(list) {
			return err
		}
		after = list[len(list)-1].Seq
	}
	return nil
}

// nextPart is readPart, asked patiently.
func (j *Journal) nextPart(ctx context.Context, l *life, key string, after, until uint64, bytes int) (list []Message, err error) {
	err = j.patiently(ctx, l, func(ctx context.Context) (err error) {
		list, err = j.readPart(ctx, l, key, after, until, bytes)
		return err
	})
	return list, err
}

// patiently asks, and again for 3 s where a part of the answer is lost, nobody leads, the
// connection comes back or a replica lags behind. The error is what the broker said last, if it
// said anything; stream.ErrStale once a life is over, and a *GoneError at once.
func (j *Journal) patiently(ctx context.Context, l *life, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, readPatience)
	defer cancel()
	why := stream.ErrUnconfirmed
	for wait := time.Millisecond; ; wait = min(2*wait, mostWait) {
		err := ask(ctx)
		_, gone := errors.AsType[*GoneError](err)
		switch {
		case err == nil:
			return nil
		case j.life.Load() != l || l.over.Load():
			return stream.ErrStale
		case gone:
			return err
		case !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled):
			why = err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return why
		case <-j.stream.Done():
			return why
		}
	}
}

// readPart reads a key's next messages; none where there are no more. stream.ErrStale: a replica
// lags behind.
func (j *Journal) readPart(ctx context.Context, l *life, key string, after, until uint64, bytes int) (list []Message, err error) {
	subject := j.subject(key)
	_, err = j.stream.Direct(ctx, stream.Get{Seq: after + 1, Next: subject, Batch: readBatch, MaxBytes: bytes}, func(msg *nats.Msg) { list = append(list, j.messageOf(msg)) })
	if err != nil {
		return nil, err
	}
	n, gone := unbroken(after, list) // also what comes after the end tells
	for n > 0 && list[n-1].Seq > until {
		n--
	}
	// Asked last: what goes meanwhile is told of. Who leads, or does no more, has all
	// that is to be read.
	if err := j.whole(ctx, key, after, until); err != nil {
		return nil, err
	}
	if j.life.Load() != l || l.over.Load() {
		return nil, stream.ErrStale
	}
	if n == 0 && gone > 0 && gone <= until {
		return nil, &GoneError{gone}
	}
	if n > 0 {
		return list[:n], nil
	}
	// Nothing more up to there: unless this replica lags behind, the messages have
	// gone, or are another key's.
	last, err := j.stream.Next(ctx, subject, after, until)
	if err == nil && last > 0 {
		err = stream.ErrStale
	}
	return nil, err
}

// Span is what can be read of a key.
type Span struct {
	Oldest uint64 // the place before the first message that can be read
	Last   uint64 // the stream's last place, of any key
	Epoch  string // of these places
}

// Span asks what can be read of a key. After a place that is not before Oldest
// nothing is missing.
func (j *Journal) Span(ctx context.Context, key string) (Span, error) {
	type answer struct {
		first Message
		count int64
		place uint64
		err   error
	}
	firsts, cuts := make(chan answer, 1), make(chan answer, 1)
	go func() {
		first, count, err := j.firstOf(ctx, key)
		firsts <- answer{first: first, count: count, err: err}
	}()
	go func() {
		place, err := j.cutOf(ctx, key)
		cuts <- answer{place: place, err: err}
	}()
	l := j.life.Load()
	s, err := j.state(ctx)
	first, cut := <-firsts, <-cuts
	if err = cmp.Or(err, first.err, cut.err); err != nil {
		return Span{}, err
	}
	gone, err := j.goneOf(ctx, l, key, s, first.first, first.count, cut.place)
	if err != nil {
		return Span{}, err
	}
	if j.life.Load() != l {
		return Span{}, stream.ErrStale
	}
	// All before the stream's first message may have been this key's.
	whole := max(s.First, 1) - 1
	if s.First == 0 {
		whole = s.Last
	}
	return Span{max(whole, gone), s.Last, l.epoch}, nil
}

// ReadSpan is Span for who reads: it asks again as Read does.
func (j *Journal) ReadSpan(ctx context.Context, key string) (span Span, err error) {
	err = j.patiently(ctx, j.life.Load(), func(ctx context.Context) (err error) {
		span, err = j.Span(ctx, key)
		return err
	})
	return span, err
}

// firstOf is a key's first message, and how many it has, as any replica tells.
func (j *Journal) firstOf(ctx context.Context, key string) (first Message, count int64, err error) {
	end, err := j.stream.Direct(ctx, stream.Get{Seq: 1, Next: j.subject(key), Batch: 1}, func(msg *nats.Msg) {
		first, count = j.messageOf(msg), 1
	})
	return first, count + int64(stream.ParseSeq(end.Get("Nats-Num-Pending"))), err
}
