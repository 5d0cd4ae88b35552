package webhook

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/outbox"
)

// shaky is a box that answers only now and then, as one that a broker keeps may do.
type shaky struct {
	*outbox.Memory
	away atomic.Bool
}

var errAway = errors.New("the broker does not answer")

func (b *shaky) Read(ctx context.Context, tenant string, q outbox.Query) (outbox.Page, error) {
	if b.away.Load() {
		return outbox.Page{}, errAway
	}
	return b.Memory.Read(ctx, tenant, q)
}

func (b *shaky) Taken(ctx context.Context, tenant string, seq uint64) error {
	if b.away.Load() {
		return errAway
	}
	return b.Memory.Taken(ctx, tenant, seq)
}

func (b *shaky) Follow(ctx context.Context, more func(string, uint64, uint64)) (func(), error) {
	if b.away.Load() {
		return nil, errAway
	}
	return b.Memory.Follow(ctx, more)
}

// An outbox that does not answer is asked again, and no endpoint is blamed for it.
func TestABoxThatIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		box := &shaky{Memory: outbox.NewMemory(outbox.MemoryConfig{})}
		box.away.Store(true)
		s := stand(t, hook, &service{}, box)
		s.box = box.Memory
		s.put(t, "acme", 1)
		s.put(t, "other", 1)
		time.Sleep(time.Minute)
		is.Equal(len(s.service.sent()), 0)
		box.away.Store(false)
		time.Sleep(2 * askAgain)
		is.Equal(len(s.service.sent()), 2) // of those that were there before it followed

		box.away.Store(true)
		said := strings.Count(s.logs.String(), "the outbox does not answer")
		for range 60 {
			s.put(t, "acme", 1)
			s.put(t, "other", 1)
			time.Sleep(time.Second)
		}
		is.Equal(len(s.service.sent()), 0)
		is.True(strings.Count(s.logs.String(), "the outbox does not answer")-said <= 61) // once a second, of however many
		box.away.Store(false)
		time.Sleep(2 * askAgain)
		is.Equal(len(s.service.sent()), 2)
		is.Equal(s.Stats().Answers[AnswerTaken], int64(4))
		is.Equal(s.Stats().Repeated, int64(0))
		is.Equal(box.Stats().Untaken, 0)
	})
}

// What was taken is not sent again only because it could not be noted.
func TestATakenThatIsNotNoted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		box := &shaky{Memory: outbox.NewMemory(outbox.MemoryConfig{})}
		s := stand(t, hook, &service{answer: func(message, int) reply {
			box.away.Store(true)
			return reply{status: http.StatusOK}
		}}, box)
		s.box = box.Memory
		s.put(t, "acme", 1)
		time.Sleep(time.Second)
		box.away.Store(false)
		s.put(t, "acme", 1)
		time.Sleep(time.Second)
		got := s.service.sent()
		is.Equal(len(got), 2)
		is.Equal(len(got[0].seqs), 1)
		is.Equal(got[1].seqs, []uint64{got[0].seqs[0] + 1})
	})
}
