package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
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

var errKept = errors.New("are kept there already, which a restore would replace: restore into a new folder, or into new servers")

// empty refuses what a restore would replace. It returns how many keep what is there. Where there
// is no history, or an unfinished one, all is of a restore that was cut off, and they are 0.
func empty(ctx context.Context, nc *nats.Conn, prefix string) (replicas int, err error) {
	for _, kept := range []struct{ stream, subjects, what string }{
		{prefix + "_journal", prefix + ".ev.*", "events"},
		{prefix + "_table", prefix + ".row.*.*.*", "memberships"},
	} {
		there, err := look(ctx, nc, kept.stream, kept.subjects)
		switch {
		case isNotFound(err):
			return replicas, nil
		case err != nil:
			return 0, err
		case stream.Unfinished(prefix, kept.stream, there.Config):
			return 0, nil
		case len(there.State.Subjects) > 0:
			return 0, fmt.Errorf("%s %w", kept.what, errKept)
		}
		replicas = max(replicas, there.replicas())
	}
	return replicas, nil
}

// taken is the history that a restore has left which was cut off while it opened the streams: all
// is there, and some may have more since. It is nil where there is no such history.
func taken(ctx context.Context, nc *nats.Conn, prefix string) (*info, error) {
	journal := prefix + "_journal"
	history, err := look(ctx, nc, journal, "")
	if isNotFound(err) || err == nil && !stream.Unfinished(prefix, journal, history.Config) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, name := range streams(prefix)[:2] { // which are there before the history, and opened first
		switch first, err := look(ctx, nc, name, ""); {
		case isNotFound(err):
		case err != nil:
			return nil, err
		case !stream.Unfinished(prefix, name, first.Config):
			return &history, nil
		}
	}
	return nil, nil
}

// opened is a stream as it is, or is to be, for hubs.
type opened struct {
	name   string
	config map[string]any
}

// shut takes the history's and the memberships' subjects away. It returns those streams as they
// were, also of what it may have changed before an error.
func shut(ctx context.Context, nc *nats.Conn, prefix string) (before []opened, err error) {
	for _, name := range []string{prefix + "_journal", prefix + "_table"} {
		there, err := look(ctx, nc, name, "")
		switch {
		case isNotFound(err):
			continue
		case err != nil:
			return before, err
		}
		config := map[string]any{}
		json.Unmarshal(there.Config, &config)
		before = append(before, opened{name, config})
		closed := maps.Clone(config)
		closed["subjects"] = []string{shutSubject(prefix, name)}
		delete(closed, "republish")
		if err := update(ctx, nc, name, closed); err != nil {
			return before, err
		}
	}
	return before, nil
}

// shutSubject is the only one of a stream that is shut.
func shutSubject(prefix, name string) string { return prefix + ".shut." + name }

// isShut says whether a stream is one that a restore has shut, or has not opened yet.
func isShut(prefix, name string, config json.RawMessage) bool {
	var c struct {
		Subjects []string `json:"subjects"`
	}
	json.Unmarshal(config, &c)
	return stream.Unfinished(prefix, name, config) || slices.Contains(c.Subjects, shutSubject(prefix, name))
}

// openTime is how long streams may take until all are open.
const openTime = 30 * time.Second

// openAll gives streams their subjects, one after the other. Nobody can interrupt it.
func openAll(ctx context.Context, nc *nats.Conn, all []opened) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), openTime)
	defer cancel()
	for _, o := range all {
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
