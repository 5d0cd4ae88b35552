package journal

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
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
	perKey      int64 // the newest so many messages of a key are kept; 0: all
	past        past
	losses      int // how often it has lost its end, if it is a table's
}

// life is the stream's, by when it was made, or lost its end.
func (s state) life() string {
	life := strconv.FormatInt(s.created.UnixNano(), 36)
	if s.losses > 0 {
		life += "." + strconv.Itoa(s.losses)
	}
	return life
}

var errNoLeader = errors.New("the stream has no leader")

// info asks the leader for the stream's state.
func (s *stream) info(ctx context.Context) (state, error) {
	var info struct {
		Created time.Time `json:"created"`
		State   struct {
			Messages uint64 `json:"messages"`
			Bytes    uint64 `json:"bytes"`
			First    uint64 `json:"first_seq"`
			Last     uint64 `json:"last_seq"`
			Subjects int    `json:"num_subjects"`
		} `json:"state"`
		Config struct {
			PerKey   int64             `json:"max_msgs_per_subject"`
			Metadata map[string]string `json:"metadata"`
		} `json:"config"`
		Cluster *struct {
			Leader string `json:"leader"`
		} `json:"cluster"`
		Error *jetstream.APIError `json:"error"`
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	msg, err := s.ask(ctx, message("$JS.API.STREAM.INFO."+s.name, nil))
	if err == nil {
		err = json.Unmarshal(msg.Data, &info)
	}
	if err == nil && info.Error != nil {
		err = info.Error
	}
	if err == nil && info.Cluster != nil && info.Cluster.Leader == "" {
		err = errNoLeader // any replica answers then, as far as it has come
	}
	if err != nil {
		return state{}, err
	}
	is := info.State
	losses, _ := strconv.Atoi(info.Config.Metadata[lossesKey])
	return state{
		info.Created, is.First, is.Last, is.Subjects, is.Messages, is.Bytes,
		max(0, info.Config.PerKey), parsePast(info.Config.Metadata[pastKey]), losses,
	}, nil
}

func (j *Journal) askState() (state, error) {
	s, err := j.info(context.Background())
	if err != nil {
		return state{}, err
	}
	j.answered.set(uptime())
	j.bytes.Store(int64(s.bytes))
	j.first.Store(s.first)
	j.room.told(int64(s.bytes))
	return s, nil
}

// state asks the leader, or joins another's question that is not yet sent: so what
// was subscribed to before is known to the leader when it answers. Who has just been
// elected may be behind for a moment: errStale where the answer stays older than what we
// have seen, or of a life that we do not know yet.
func (j *Journal) state(ctx context.Context) (state, error) {
	for begun := time.Now(); ; {
		l := j.life.Load()
		seen := l.highest.Load()
		s, err := j.heads.join(ctx)
		if err != nil || s.last >= seen && s.life() == l.created {
			return s, err
		}
		if time.Since(begun) > staleTime || !pause(ctx) {
			return state{}, errStale
		}
	}
}

// joined lets many who ask the same share one answer, to a question that was put after
// they asked.
type joined[T any] struct {
	ask func() (T, error) // static

	mu sync.Mutex
	// Guarded by mu.
	next    *question[T]
	running bool
}

type question[T any] struct {
	answered chan struct{}
	answer   T
	err      error
}

func (h *joined[T]) join(ctx context.Context) (answer T, err error) {
	h.mu.Lock()
	if h.next == nil {
		h.next = &question[T]{answered: make(chan struct{})}
	}
	q := h.next
	if !h.running {
		h.running = true
		go h.run()
	}
	h.mu.Unlock()
	select {
	case <-q.answered:
		return q.answer, q.err
	case <-ctx.Done():
		return answer, ctx.Err()
	}
}

func (h *joined[T]) run() {
	for {
		h.mu.Lock()
		q := h.next
		h.next = nil
		h.running = q != nil
		h.mu.Unlock()
		if q == nil {
			return
		}
		q.answer, q.err = h.ask()
		close(q.answered)
	}
}

// Stats are of the whole journal, as its leader tells.
func (j *Journal) Stats(ctx context.Context) (keys int, messages, bytes uint64, err error) {
	s, err := j.state(ctx)
	return s.keys, s.messages, s.bytes, err
}
