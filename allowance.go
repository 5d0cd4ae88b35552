package main

import (
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"realtimehub/internal/quota"
)

// ErrAnswers says that answers that are being written to one take more memory than it
// may have.
var ErrAnswers = errors.New("answers that this caller has not read yet take as much memory as it may have now; read them, or ask again later")

// allowance is what one call takes of a pool, a step ahead of what it uses: so the pool is
// not asked for each little thing. It belongs to one goroutine. A nil allowance bounds
// nothing.
type allowance struct {
	pool        *quota.Pool[tenantProfile]
	holder      tenantProfile
	used, taken int64
}

const (
	allowanceStep = 4 << 10 // what is taken at least
	bodyCopies    = 2       // a body is there as it came and as it was understood
)

// Body is a call's share of the memory for bodies and for what is made of them.
func (q *Quotas) Body(r *http.Request, who *Caller) *allowance {
	tenant, profile := who.Holder(r)
	return &allowance{pool: q.Bodies, holder: tenantProfile{tenant, profile}}
}

// Answer is a call's share of the memory for answers.
func (q *Quotas) Answer(r *http.Request, who *Caller) *allowance {
	tenant, profile := who.Holder(r)
	return &allowance{pool: q.Answers, holder: tenantProfile{tenant, profile}}
}

// use takes n bytes more, or nothing, and says which.
func (a *allowance) use(n int) bool {
	if a == nil {
		return true
	}
	if more := a.used + int64(n) - a.taken; more > 0 {
		more = max(more, allowanceStep)
		if !a.pool.Take(a.holder, more) {
			return false
		}
		a.taken += more
	}
	a.used += int64(n)
	return true
}

// back gives back all but the first so many bytes that were used.
func (a *allowance) back(to int64) {
	if a == nil {
		return
	}
	a.pool.Give(a.holder, a.taken-to)
	a.used, a.taken = to, to
}

// close gives back all.
func (a *allowance) close() { a.back(0) }

// seldom says when to log what may go on and on: once a second.
type seldom struct {
	mu sync.Mutex
	// Guarded by mu.
	told  time.Time
	times int // since
}

// due counts one more, and says whether to log it now, as one of so many.
func (s *seldom) due(now time.Time) (times int, due bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.times++
	if now.Sub(s.told) < time.Second {
		return 0, false
	}
	times, s.told, s.times = s.times, now, 0
	return times, true
}

// tellCrowded logs that a caller has its share of the memory for calls, once a second.
func (s *seldom) tellCrowded(logger *slog.Logger, err error, holder tenantProfile) {
	if times, due := s.due(time.Now()); due {
		logger.Warn("a call is refused for want of memory", "err", err, "tenant", holder.tenant, "profile", holder.profile.String(), "times", times)
	}
}
