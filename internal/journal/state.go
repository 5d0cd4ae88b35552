package journal

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// state is the stream's, as its leader tells.
type state struct {
	created     time.Time
	first, last uint64
	keys        int
	messages    uint64
	bytes       uint64
}

func (j *Journal) askState() (state, error) {
	var info struct {
		Created time.Time `json:"created"`
		State   struct {
			Messages uint64 `json:"messages"`
			Bytes    uint64 `json:"bytes"`
			First    uint64 `json:"first_seq"`
			Last     uint64 `json:"last_seq"`
			Subjects int    `json:"num_subjects"`
		} `json:"state"`
		Error *jetstream.APIError `json:"error"`
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	msg, err := j.ask(ctx, message("$JS.API.STREAM.INFO."+j.name, nil))
	if err == nil {
		err = json.Unmarshal(msg.Data, &info)
	}
	if err == nil && info.Error != nil {
		err = info.Error
	}
	if err != nil {
		return state{}, err
	}
	s := info.State
	j.answered.Store(time.Now().UnixNano())
	j.bytes.Store(int64(s.Bytes))
	j.room.told(int64(s.Bytes))
	return state{info.Created, s.First, s.Last, s.Subjects, s.Messages, s.Bytes}, nil
}

// state asks the leader, or joins another's question that is not yet sent: so what
// was subscribed to before is known to the leader when it answers.
func (j *Journal) state(ctx context.Context) (state, error) { return j.heads.join(ctx) }

// heads lets many ask one question.
type heads struct {
	ask func() (state, error) // static

	mu sync.Mutex
	// Guarded by mu.
	next    *question
	running bool
}

type question struct {
	answered chan struct{}
	state    state
	err      error
}

func (h *heads) join(ctx context.Context) (state, error) {
	h.mu.Lock()
	if h.next == nil {
		h.next = &question{answered: make(chan struct{})}
	}
	q := h.next
	if !h.running {
		h.running = true
		go h.run()
	}
	h.mu.Unlock()
	select {
	case <-q.answered:
		return q.state, q.err
	case <-ctx.Done():
		return state{}, ctx.Err()
	}
}

func (h *heads) run() {
	for {
		h.mu.Lock()
		q := h.next
		h.next = nil
		h.running = q != nil
		h.mu.Unlock()
		if q == nil {
			return
		}
		q.state, q.err = h.ask()
		close(q.answered)
	}
}

// Stats are of the whole journal, as its leader tells.
func (j *Journal) Stats(ctx context.Context) (keys int, messages, bytes uint64, err error) {
	s, err := j.state(ctx)
	return s.keys, s.messages, s.bytes, err
}
