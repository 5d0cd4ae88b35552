package broker

import (
	"context"
	"errors"
	"slices"
	"time"

	"realtimehub/internal/cluster"
)

// settlePatience is how long deadlines wait for a hub that does not say that it has kept what its
// clients have acknowledged: a busy one, or one that the broker does not hear for a moment.
const settlePatience = 5 * time.Second

var errUnsettled = errors.New("another hub has yet to say what its clients have acknowledged")

// settling has all other hubs keep what their clients have acknowledged. The hub that judges owns
// it.
type settling struct {
	others   *otherHubs
	patience time.Duration
	since    map[string]time.Time // since when which hubs did not say that they have
}

// settle is called again as long as it fails. Of a hub that is not waited for any longer what it
// had not kept is reported once too often.
func (s *settling) settle(ctx context.Context) error {
	answers, silent := s.others.AskAll(ctx, cluster.Call{Op: cluster.CallSettle}) // who is silent is logged
	if slices.ContainsFunc(answers, func(a cluster.Answer) bool { return !a.Found }) {
		silent = append(silent, "one of the version before")
	}
	now, since, waits := time.Now(), map[string]time.Time{}, false
	for _, hub := range silent {
		begun, known := s.since[hub]
		if !known {
			begun = now
		}
		since[hub] = begun
		waits = waits || now.Sub(begun) < s.patience
	}
	s.since = since
	if waits {
		return errUnsettled
	}
	return nil
}
