package journal

import (
	"context"
	"crypto/rand"
	"errors"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// Of the epoch: the key of its counter, and how often a change is tried.
const (
	epochKey   = "epoch"
	epochTries = 5
	secretKey  = "secret"
)

// Secret is random bytes that all who share the journal have, and nobody else who
// cannot read it.
func (j *Journal) Secret() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.secret
}

// readSecret learns the secret, which the first who comes makes; whoever is there when
// it was lost keeps it.
func (j *Journal) readSecret(ctx context.Context) error {
	ours := j.Secret()
	if ours == "" {
		ours = rand.Text() + rand.Text()
	}
	for {
		entry, err := j.epochs.Get(ctx, secretKey)
		if err == nil {
			ours = string(entry.Value())
		} else if errors.Is(err, jetstream.ErrKeyNotFound) {
			_, err = j.epochs.Create(ctx, secretKey, []byte(ours))
		}
		if err == nil {
			j.mu.Lock()
			j.secret = ours
			j.mu.Unlock()
			return nil
		}
		if !errors.Is(err, jetstream.ErrKeyExists) || !pause(ctx) { // else a replica is behind
			return err
		}
	}
}

// Epoch is new for each life of the stream: places of another mean nothing here.
func (j *Journal) Epoch() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.epoch
}

// readEpoch learns the stream's life, and begins another where it goes on from an
// earlier place than was seen before s was asked for: a broker that lost its last
// writes gives places twice.
func (j *Journal) readEpoch(ctx context.Context, s state, seen uint64) error {
	var count, revision uint64
	for try := 0; ; try++ {
		entry, err := j.epochs.Get(ctx, epochKey)
		switch {
		case err == nil:
			count, err = strconv.ParseUint(string(entry.Value()), 10, 64)
			revision = entry.Revision()
		case errors.Is(err, jetstream.ErrKeyNotFound):
			count, revision, err = 0, 0, nil
		}
		if err != nil {
			return err
		}
		if s.last >= seen || j.changes(s, count) {
			break // as we knew it, or somebody else has told already
		}
		if _, err = j.epochs.Update(ctx, epochKey, []byte(strconv.FormatUint(count+1, 10)), revision); err != nil && try == epochTries {
			return err
		}
	}
	epoch := strconv.FormatInt(s.created.UnixNano(), 36)
	j.mu.Lock()
	before := j.epoch
	if strings.HasPrefix(before, epoch+".") && count < j.count {
		count = j.count // a replica is behind
	}
	epoch += "." + strconv.FormatUint(count, 36)
	j.epoch, j.count = epoch, count
	j.mu.Unlock()
	if before == epoch {
		return nil
	}
	j.highest.Store(s.last)
	if before != "" {
		j.cfg.Logger.Error("the broker's history is another than before", "epoch", epoch)
		j.restart(s.last)
	}
	return nil
}

// again has the epoch looked at: the broker has given a place twice.
func (j *Journal) again() {
	j.done.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
		defer cancel()
		seen := j.highest.Load()
		if s, err := j.state(ctx); err == nil {
			j.readEpoch(ctx, s, max(seen, s.last+1))
		}
	})
}

// changes says whether a counter makes another epoch than ours.
func (j *Journal) changes(s state, count uint64) bool {
	return j.Epoch() != strconv.FormatInt(s.created.UnixNano(), 36)+"."+strconv.FormatUint(count, 36)
}

// saw notes a place that exists.
func (j *Journal) saw(seq uint64) {
	for {
		highest := j.highest.Load()
		if seq <= highest || j.highest.CompareAndSwap(highest, seq) {
			return
		}
	}
}

// restart takes up all keys in another life of the stream.
func (j *Journal) restart(last uint64) {
	j.swept.Store(last)
	for _, f := range j.followed() {
		f.mu.Lock()
		f.beginLocked(last, last)
		f.mu.Unlock()
		j.cfg.Lost(f.key, last)
	}
}
