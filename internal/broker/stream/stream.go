package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Get is a direct get: any replica answers, in one or several messages.
type Get struct {
	Seq       uint64   `json:"seq,omitempty"`
	Next      string   `json:"next_by_subj,omitempty"`
	Last      string   `json:"last_by_subj,omitempty"`
	Batch     int      `json:"batch,omitempty"`
	MaxBytes  int      `json:"max_bytes,omitempty"` // about; the broker's own limit is larger
	MultiLast []string `json:"multi_last,omitempty"`
}

// Stream is one of the broker's: what it is sent and asked, and what it answers.
type Stream struct {
	nc    *nats.Conn
	Name  string // static
	inbox string
	ended chan struct{}
	asked atomic.Uint64
	hung  Latest // a replica did not answer

	mu      sync.Mutex
	waiting map[string]chan *nats.Msg // guarded by mu: answers, by their inbox's last token
}

// New makes the process's side of a stream that may not exist yet.
func New(nc *nats.Conn, name string) (*Stream, error) {
	s := &Stream{nc: nc, Name: name, inbox: nc.NewRespInbox(), ended: make(chan struct{}), waiting: map[string]chan *nats.Msg{}}
	answers, err := nc.Subscribe(s.inbox+".*", s.route)
	if err == nil {
		err = answers.SetPendingLimits(-1, -1)
	}
	return s, err
}

// Done is closed when the stream is.
func (s *Stream) Done() <-chan struct{} { return s.ended }

// Close ends what waits for an answer; the connection is the caller's.
func (s *Stream) Close() { close(s.ended) }

// BatchName is of a batch of this process's that has no other name.
func (s *Stream) BatchName() string {
	return fmt.Sprintf("%s-%d", s.inbox[len(s.inbox)-8:], s.asked.Add(1))
}

// expect has answers to an inbox of its own come to a channel, until forget.
func (s *Stream) expect(most int) (inbox string, answers chan *nats.Msg, forget func()) {
	name := strconv.FormatUint(s.asked.Add(1), 36)
	answers = make(chan *nats.Msg, most)
	s.mu.Lock()
	s.waiting[name] = answers
	s.mu.Unlock()
	return s.inbox + "." + name, answers, func() {
		s.mu.Lock()
		delete(s.waiting, name)
		s.mu.Unlock()
	}
}

func (s *Stream) route(msg *nats.Msg) {
	name := msg.Subject[len(s.inbox)+1:]
	s.mu.Lock()
	answers := s.waiting[name]
	s.mu.Unlock()
	if answers != nil {
		select {
		case answers <- msg:
		default: // more than was asked for
		}
	}
}

// Ask sends a message and waits for its answer. The connection's own requests would
// wait for it even past their time, while it comes back.
func (s *Stream) Ask(ctx context.Context, msg *nats.Msg) (*nats.Msg, error) {
	inbox, answers, forget := s.expect(1)
	defer forget()
	msg.Reply = inbox
	if err := s.nc.PublishMsg(msg); err != nil {
		return nil, err
	}
	select {
	case answer := <-answers:
		if len(answer.Data) == 0 && answer.Header.Get("Status") == "503" {
			return nil, nats.ErrNoResponders
		}
		return answer, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.ended:
		return nil, nats.ErrConnectionClosed
	}
}

// ErrTorn: a part of an answer was lost on its way.
var ErrTorn = errors.New("part of the store's answer was lost")

// replica is direct of any replica. errHangs: no message came in a time.
func (s *Stream) replica(ctx context.Context, q Get, within time.Duration, take func(*nats.Msg)) (nats.Header, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	inbox, answers, forget := s.expect(max(q.Batch, len(q.MultiLast), 1) + 1)
	defer forget()
	if err := s.nc.PublishRequest("$JS.API.DIRECT.GET."+s.Name, inbox, body); err != nil {
		return nil, err
	}
	timer := time.NewTimer(within)
	defer timer.Stop()
	several := q.Batch > 0 || len(q.MultiLast) > 0
	last := uint64(0) // each part names the one before it
	for {
		select {
		case msg := <-answers:
			status := msg.Header.Get("Status")
			if several && (status == "" || status == "204") && ParseSeq(msg.Header.Get("Nats-Last-Sequence")) != last {
				return nil, ErrTorn
			}
			switch status {
			case "":
				take(msg)
				if !several {
					return nil, nil
				}
				last = ParseSeq(msg.Header.Get("Nats-Sequence"))
				timer.Reset(AskTimeout)
			case "204":
				return msg.Header, nil
			case "404":
				return nil, nil
			default:
				return nil, errors.New("the store answered " + status + " " + msg.Header.Get("Description"))
			}
		case <-timer.C:
			return nil, errHangs
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-s.ended:
			return nil, nats.ErrConnectionClosed
		}
	}
}

// Next asks the leader for the next place of a subject after one: 0 when there is
// none up to another place.
func (s *Stream) Next(ctx context.Context, subject string, after, until uint64) (uint64, error) {
	msg, err := s.Leader(ctx, Get{Seq: after + 1, Next: subject})
	if msg.Seq > until {
		return 0, err
	}
	return msg.Seq, err
}

// Last asks the leader for the last place of a subject, which may have wildcards: 0
// when there is none.
func (s *Stream) Last(ctx context.Context, subject string) (uint64, error) {
	msg, err := s.Leader(ctx, Get{Last: subject})
	return msg.Seq, err
}

// SubjectOf asks the leader whose message a place has; empty where it has gone.
func (s *Stream) SubjectOf(ctx context.Context, seq uint64) (string, error) {
	msg, err := s.Leader(ctx, Get{Seq: seq})
	return msg.Subject, err
}

// told is a message as the leader tells it; zero where there is none.
type told struct {
	Subject string    `json:"subject"`
	Seq     uint64    `json:"seq"`
	Header  []byte    `json:"hdrs"`
	Data    []byte    `json:"data"`
	At      time.Time `json:"time"`
}

// Leader asks the stream's leader for one message.
func (s *Stream) Leader(ctx context.Context, q Get) (told, error) { return s.LeaderOf(ctx, s.Name, q) }

// LeaderOf is leader of a stream of any name.
func (s *Stream) LeaderOf(ctx context.Context, name string, q Get) (told, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return told{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, AskTimeout)
	defer cancel()
	msg, err := s.Ask(ctx, NewMessage("$JS.API.STREAM.MSG.GET."+name, body))
	if err != nil {
		return told{}, err
	}
	var answer struct {
		Message told                `json:"message"`
		Error   *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(msg.Data, &answer); err != nil {
		return told{}, err
	}
	if answer.Error == nil {
		return answer.Message, nil
	}
	if answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound {
		return told{}, nil
	}
	return told{}, answer.Error
}

// IsGone says that an error is the broker's word that it has no such stream.
func IsGone(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && api.ErrorCode == jetstream.JSErrCodeStreamNotFound
}

// Publish sends messages, several as a batch of that name, and beside them, before
// the last, what is not kept.
func (s *Stream) Publish(ctx context.Context, batch string, messages, passes []*nats.Msg) (last uint64, duplicate bool, err error) {
	n := len(messages)
	if n > 1 {
		for i, msg := range messages {
			msg.Header["Nats-Batch-Id"] = []string{batch}
			msg.Header["Nats-Batch-Sequence"] = []string{strconv.Itoa(i + 1)}
		}
		messages[n-1].Header["Nats-Batch-Commit"] = []string{"1"}
	}
	for _, msg := range append(messages[:n-1:n-1], passes...) {
		if err := s.nc.PublishMsg(msg); err != nil {
			return 0, false, brokerError(err)
		}
	}
	return s.Request(ctx, messages[n-1])
}

// Request sends one message to be kept; it returns its place, or that of its duplicate.
func (s *Stream) Request(ctx context.Context, msg *nats.Msg) (seq uint64, duplicate bool, err error) {
	answer, err := s.Ask(ctx, msg)
	if err != nil {
		return 0, false, brokerError(err)
	}
	var a ack
	if err := jsonv2.Unmarshal(answer.Data, &a); err != nil { // twice as fast, and this is on the way of each event
		return 0, false, fmt.Errorf("%w: %w", ErrUnconfirmed, err)
	}
	if a.Error != nil {
		return 0, false, &Refusal{a.Error.Code, a.Error.Description}
	}
	return a.Seq, a.Duplicate, nil
}

// ack is the broker's answer to a message.
type ack struct {
	Seq       uint64 `json:"seq"`
	Duplicate bool   `json:"duplicate"`
	Error     *struct {
		Code        int    `json:"err_code"`
		Description string `json:"description"`
	} `json:"error"`
}

// Refusal is the broker's word that it has not kept something.
type Refusal struct {
	Code int // of the broker's error
	text string
}

func (r *Refusal) Error() string { return fmt.Sprintf("the store: %s (%d)", r.text, r.Code) }

// brokerError is of a message that may have left.
func brokerError(err error) error {
	if errors.Is(err, nats.ErrMaxPayload) {
		return ErrTooLarge
	}
	return fmt.Errorf("%w: %w", ErrUnconfirmed, err)
}

// NewMessage makes one with headers, as they are spelt.
func NewMessage(subject string, data []byte, headers ...string) *nats.Msg {
	msg := &nats.Msg{Subject: subject, Data: data, Header: nats.Header{}}
	for i := 0; i < len(headers); i += 2 {
		msg.Header[headers[i]] = []string{headers[i+1]}
	}
	return msg
}

// FormatTTL is how a message says for how long it is kept: in whole seconds, for no shorter than d.
func FormatTTL(d time.Duration) string {
	return strconv.Itoa(int((d + time.Second - 1) / time.Second))
}

// FormatSeq writes a place into a header.
func FormatSeq(seq uint64) string { return strconv.FormatUint(seq, 10) }

// ParseSeq reads a place from a header; 0: there is none.
func ParseSeq(text string) uint64 {
	seq, _ := strconv.ParseUint(text, 10, 64)
	return seq
}
