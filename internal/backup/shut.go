package backup

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/broker/stream"
)

// claim is empty, once hubs that run can keep no event and no membership any more: what is
// acknowledged after the question would be lost. An error leaves all as it was, or is a stream.ErrLeft.
func claim(ctx context.Context, nc *nats.Conn, prefix string) (replicas int, err error) {
	if replicas, err = empty(ctx, nc, prefix); err != nil || replicas == 0 {
		return replicas, err
	}
	before, err := shut(ctx, nc, prefix)
	if err == nil {
		replicas, err = empty(ctx, nc, prefix)
	}
	if err == nil {
		return replicas, nil
	}
	if left := openAll(ctx, nc, before); left != nil {
		err = errors.Join(err, fmt.Errorf("%w: hubs that run can keep nothing until they are started again: %w", stream.ErrLeft, left))
	}
	return replicas, err
}

// opened is a stream as it is, or is to be, for hubs.
type opened struct {
	name   string
	config map[string]any
}

// turn is when it is opened: the history's is the last, for then all is there.
func (o opened) turn() int {
	if strings.HasSuffix(o.name, "_journal") {
		return 1
	}
	return 0
}

// shut takes the history's and the memberships' subjects away. It returns those streams as they
// were, also of what it may have changed before an error.
func shut(ctx context.Context, nc *nats.Conn, prefix string) (before []opened, err error) {
	for _, name := range []string{prefix + "_journal", prefix + "_table"} {
		var info struct {
			Config map[string]any      `json:"config"`
			Error  *jetstream.APIError `json:"error"`
		}
		if err := ask(ctx, nc, "$JS.API.STREAM.INFO."+name, nil, &info); err != nil {
			return before, err
		}
		switch {
		case info.Error != nil && info.Error.ErrorCode == codeNotFound:
			continue
		case info.Error != nil:
			return before, info.Error
		}
		before = append(before, opened{name, info.Config})
		closed := maps.Clone(info.Config)
		closed["subjects"] = []string{prefix + ".shut." + name}
		delete(closed, "republish")
		if err := update(ctx, nc, name, closed); err != nil {
			return before, err
		}
	}
	return before, nil
}

// openTime is how long streams may take until all are open.
const openTime = 30 * time.Second

// openAll gives streams their subjects. Nobody can interrupt it.
func openAll(ctx context.Context, nc *nats.Conn, all []opened) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), openTime)
	defer cancel()
	byTurn := func(a, b opened) int { return cmp.Compare(a.turn(), b.turn()) }
	for _, o := range slices.SortedStableFunc(slices.Values(all), byTurn) {
		err := stream.UntilMade(ctx, slog.New(slog.DiscardHandler), func(ctx context.Context) error {
			return update(ctx, nc, o.name, o.config)
		})
		if err != nil {
			return fmt.Errorf("stream %s: %w", o.name, err)
		}
	}
	return nil
}

// update changes a stream. It hears what came of it also where ctx has ended, as far as the
// server answers.
func update(ctx context.Context, nc *nats.Conn, name string, config map[string]any) error {
	question, _ := json.Marshal(config)
	var answer struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := ask(context.WithoutCancel(ctx), nc, "$JS.API.STREAM.UPDATE."+name, question, &answer); err != nil {
		return err
	}
	if answer.Error != nil {
		return answer.Error
	}
	return nil
}
