package journal

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// readBatch is how many messages are asked for at once.
const readBatch = 512

// errStale: a replica has not yet what the leader told.
var errStale = errors.New("a replica of the stream is behind")

// Message is one that is kept.
type Message struct {
	Seq    uint64
	At     time.Time
	Data   []byte
	kept   bool // false: only its id is
	origin origin
	prev   uint64 // of its key; told by what is republished only
}

func (j *Journal) messageOf(msg *nats.Msg) Message {
	at, _ := time.Parse(time.RFC3339Nano, msg.Header.Get("Nats-Time-Stamp"))
	subject, _ := strings.CutPrefix(msg.Header.Get("Nats-Subject"), j.cfg.Prefix)
	return Message{
		parseSeq(msg.Header.Get("Nats-Sequence")), at, msg.Data, strings.HasPrefix(subject, ".ev."),
		parseOrigin(msg.Header.Get(originHeader)), parseSeq(msg.Header.Get("Nats-Last-Sequence")),
	}
}

// Read reads a key's messages after a place up to another that is known to exist,
// in parts, until take says that it is enough.
func (j *Journal) Read(ctx context.Context, key string, after, until uint64, take func([]Message) bool) error {
	subject := j.subject(key)
	for wait := time.Millisecond; after < until; {
		var list []Message
		_, err := j.direct(ctx, get{Seq: after + 1, Next: subject, Batch: readBatch}, func(msg *nats.Msg) { list = append(list, j.messageOf(msg)) })
		if err != nil {
			return err
		}
		for len(list) > 0 && list[len(list)-1].Seq > until {
			list = list[:len(list)-1]
		}
		if len(list) > 0 {
			after = list[len(list)-1].Seq
			if !take(list) {
				return nil
			}
			continue
		}
		// Nothing more up to there: unless this replica lags behind, the messages have
		// gone, or are another key's.
		last, err := j.next(ctx, subject, after, until)
		if err != nil || last == 0 {
			return err
		}
		select {
		case <-time.After(wait):
			wait = min(2*wait, 50*time.Millisecond)
		case <-ctx.Done():
			return errStale
		}
	}
	return nil
}

// Span is what can be read of a key.
type Span struct {
	Oldest uint64 // the place before the first message that can be read
	Last   uint64 // the stream's last place, of any key
}

// Span asks what can be read of a key. After a place that is not before Oldest
// nothing is missing.
func (j *Journal) Span(ctx context.Context, key string) (Span, error) {
	s, err := j.state(ctx)
	if err != nil {
		return Span{}, err
	}
	// All before the stream's first message may have been this key's; of what
	// follows, the limit of a key's messages is all that removes any.
	whole := max(s.first, 1) - 1
	if s.first == 0 {
		whole = s.last
	}
	if j.cfg.PerKey == 0 {
		return Span{whole, s.last}, nil
	}
	g := get{Seq: 1, Next: j.cfg.Prefix + ".ev." + token(key), Batch: 1}
	var first uint64
	end, err := j.direct(ctx, g, func(msg *nats.Msg) { first = j.messageOf(msg).Seq })
	if err != nil {
		return Span{}, err
	}
	if pending := parseSeq(end.Get("Nats-Num-Pending")); first > 0 && pending+1 > uint64(j.cfg.PerKey) {
		whole = max(whole, first)
	}
	return Span{whole, s.last}, nil
}
