package stream

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// State is a stream's, as its leader tells it.
type State struct {
	created     time.Time
	Now         time.Time // by the leader's clock, as it answered
	First, Last uint64    // places
	Keys        int       // subjects that have messages
	Messages    uint64
	Bytes       uint64
	PerKey      int64             // the newest so many messages of a subject are kept; 0: all
	Losses      int               // how often it has lost its end, if that is counted
	Metadata    map[string]string // of its configuration
}

// Life names the stream from when it was made, or last lost its end.
func (s State) Life() string {
	life := strconv.FormatInt(s.created.UnixNano(), 36)
	if s.Losses > 0 {
		life += "." + strconv.Itoa(s.Losses)
	}
	return life
}

// LossesKey is where the metadata count how often the stream has lost its end.
const LossesKey = "losses"

// ErrNoLeader: nobody can say now what the stream has.
var ErrNoLeader = errors.New("the stream has no leader")

// Info asks the leader for the stream's state.
func (s *Stream) Info(ctx context.Context) (State, error) {
	var info struct {
		Created time.Time `json:"created"`
		Now     time.Time `json:"ts"`
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
	ctx, cancel := context.WithTimeout(ctx, AskTimeout)
	defer cancel()
	msg, err := s.Ask(ctx, NewMessage("$JS.API.STREAM.INFO."+s.Name, nil))
	if err == nil {
		err = json.Unmarshal(msg.Data, &info)
	}
	if err == nil && info.Error != nil {
		err = info.Error
	}
	if err == nil && info.Cluster != nil && info.Cluster.Leader == "" {
		err = ErrNoLeader // any replica answers then, as far as it has come
	}
	if err != nil {
		return State{}, err
	}
	is := info.State
	losses, _ := strconv.Atoi(info.Config.Metadata[LossesKey])
	return State{
		info.Created, info.Now, is.First, is.Last, is.Subjects, is.Messages, is.Bytes,
		max(0, info.Config.PerKey), losses, info.Config.Metadata,
	}, nil
}
