package stream

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A replica that hangs is asked all the same: which one is, is a matter of chance. So it has
// a short time for its first word, and then the leader is asked, which takes no batches; for
// a while it is asked at once.
const (
	firstWord  = 300 * time.Millisecond
	hungFor    = 5 * time.Second
	leaderTime = AskTimeout / 3 // for as many messages as it has then told
)

var errHangs = errors.New("a replica does not answer")

// Direct asks any replica, or the leader, and hands each message to take; it returns the
// end's header, nil where there was nothing. After an error some may have been handed over.
func (s *Stream) Direct(ctx context.Context, q Get, take func(*nats.Msg)) (nats.Header, error) {
	if len(q.MultiLast) > 0 {
		return s.replica(ctx, q, AskTimeout, take) // the leader cannot be asked for that
	}
	if hung := s.hung.Get(); hung == 0 || Uptime()-hung > hungFor {
		var list []*nats.Msg
		end, err := s.replica(ctx, q, firstWord, func(msg *nats.Msg) { list = append(list, msg) })
		if err == nil {
			for _, msg := range list {
				take(msg)
			}
		}
		if !errors.Is(err, errHangs) {
			return end, err
		}
		s.hung.Set(Uptime())
	}
	return s.leaderEach(ctx, q, take)
}

// At is the message of a place; nil: there is none. What a replica does not have, which may be behind,
// the leader is asked for.
func (s *Stream) At(ctx context.Context, seq uint64) (msg *nats.Msg, err error) {
	_, err = s.Direct(ctx, Get{Seq: seq}, func(m *nats.Msg) { msg = m })
	if err != nil || msg != nil {
		return msg, err
	}
	last, err := s.Leader(ctx, Get{Seq: seq})
	if err != nil || last.Seq == 0 {
		return nil, err
	}
	return last.message(), nil
}

// leaderEach is direct of the leader, which tells one message after the other.
func (s *Stream) leaderEach(ctx context.Context, q Get, take func(*nats.Msg)) (nats.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, AskTimeout)
	defer cancel()
	begun := Uptime()
	bytes := 0
	for n := 1; ; n++ {
		m, err := s.Leader(ctx, Get{Seq: q.Seq, Next: q.Next, Last: q.Last})
		if err != nil {
			return nil, err
		}
		if m.Seq == 0 {
			if n == 1 {
				return nil, nil
			}
			return nats.Header{}, nil
		}
		take(m.message())
		q.Seq = m.Seq + 1
		bytes += len(m.Data)
		switch {
		case q.Batch == 0:
			return nil, nil
		case q.Batch == 1:
			return s.pending(ctx, q.Next, n)
		case n == q.Batch || q.MaxBytes > 0 && bytes >= q.MaxBytes || Uptime()-begun > leaderTime:
			return pending(1), nil // or more
		}
	}
}

func pending(n int) nats.Header { return nats.Header{"Nats-Num-Pending": {strconv.Itoa(n)}} }

// pending is the end's header after so many of a subject's messages, from the first on.
func (s *Stream) pending(ctx context.Context, subject string, after int) (nats.Header, error) {
	body, err := json.Marshal(map[string]string{"subjects_filter": subject})
	if err != nil {
		return nil, err
	}
	answer, err := s.Ask(ctx, NewMessage("$JS.API.STREAM.INFO."+s.Name, body))
	if err != nil {
		return nil, err
	}
	var info struct {
		State struct {
			Subjects map[string]int `json:"subjects"`
		} `json:"state"`
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(answer.Data, &info); err != nil {
		return nil, err
	}
	if info.Error != nil {
		return nil, info.Error
	}
	return pending(max(0, info.State.Subjects[subject]-after)), nil
}

// message is what a direct get would have brought.
func (t told) message() *nats.Msg {
	header, err := nats.DecodeHeadersMsg(t.Header)
	if err != nil {
		header = nats.Header{} // it has none
	}
	header["Nats-Subject"] = []string{t.Subject}
	header["Nats-Sequence"] = []string{strconv.FormatUint(t.Seq, 10)}
	header["Nats-Time-Stamp"] = []string{t.At.Format(time.RFC3339Nano)}
	return &nats.Msg{Subject: t.Subject, Header: header, Data: t.Data}
}
