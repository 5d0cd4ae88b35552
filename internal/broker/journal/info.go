package journal

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
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
	losses      int   // how often it has lost its end, if that is counted
	metadata    map[string]string
}

// life is the stream's, by when it was made, or lost its end.
func (s state) life() string {
	life := strconv.FormatInt(s.created.UnixNano(), 36)
	if s.losses > 0 {
		life += "." + strconv.Itoa(s.losses)
	}
	return life
}

// lossesKey is where the stream's configuration counts how often the table has lost its end.
const lossesKey = "losses"

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
		max(0, info.Config.PerKey), losses, info.Config.Metadata,
	}, nil
}
