package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// LimitsConfig is how much one may do; 0 lifts a limit.
type LimitsConfig struct {
	PublishRate float64 // events a second a tenant
	ClientRate  float64 // client calls a second a profile
}

// RateError says that a rate limit was met, and when to come back.
type RateError struct {
	What  string
	After time.Duration
}

func (e *RateError) Error() string {
	return fmt.Sprintf("too many %s; try again in %.1f s", e.What, e.After.Seconds())
}

// How many probes there may be: each has a goroutine and timers, which no stream has.
const (
	maxProbes    = 32
	maxOwnProbes = 8 // a doctor opens up to four, and another may run beside it
)

// Why there is no probe to be had.
var (
	ErrProbes    = fmt.Errorf("%d probes are open, which is as many as the hub allows; try again later", maxProbes)
	ErrOwnProbes = fmt.Errorf("%d probes of this profile, service or address are open, which is as many as one may have; try again when one is over", maxOwnProbes)
)

// Limits bounds how often, and how many at a time. Each tenant and each profile has its
// own measure, so that one at its limit is no other's concern.
type Limits struct {
	publish buckets[string]
	client  buckets[tenantProfile]

	noProbe atomic.Int64 // how often none was to be had

	mu sync.Mutex
	// Guarded by mu.
	probes    int
	ownProbes map[tenantProfile]int
}

// NewLimits makes full buckets: a burst may be one second's worth.
func NewLimits(cfg LimitsConfig) *Limits {
	return &Limits{
		publish: buckets[string]{perSecond: cfg.PublishRate, of: map[string]*rate.Limiter{}},
		client:  buckets[tenantProfile]{perSecond: cfg.ClientRate, of: map[tenantProfile]*rate.Limiter{}},

		ownProbes: map[tenantProfile]int{},
	}
}

// Publish takes n events of a tenant, or none and says when: a *RateError.
func (l *Limits) Publish(tenant string, n int) error {
	if wait := l.publish.take(tenant, n); wait > 0 {
		return &RateError{"events of this tenant", wait}
	}
	return nil
}

// Met is how often a limit refused somebody, or had them wait.
func (l *Limits) Met() map[string]int64 {
	return map[string]int64{"publish": l.publish.met.Load(), "client": l.client.met.Load(), "probe": l.noProbe.Load()}
}

// AwaitPublish is Publish for who would rather wait.
func (l *Limits) AwaitPublish(ctx context.Context, tenant string, n int) error {
	for {
		wait := l.publish.take(tenant, n)
		if wait == 0 {
			return nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
	}
}

// Client takes one call of a profile, or says when: a *RateError.
func (l *Limits) Client(tenant string, p ProfileRef) error {
	if wait := l.client.take(tenantProfile{tenant, p}, 1); wait > 0 {
		return &RateError{"calls of this profile", wait}
	}
	return nil
}

// Probe takes one of the probes that the holder of a credential may have, until over
// is called: [ErrOwnProbes] or [ErrProbes] when there is none.
func (l *Limits) Probe(tenant string, p ProfileRef) (over func(), err error) {
	who := tenantProfile{tenant, p}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.ownProbes[who] >= maxOwnProbes:
		err = ErrOwnProbes
	case l.probes >= maxProbes:
		err = ErrProbes
	}
	if err != nil {
		l.noProbe.Add(1)
		return nil, err
	}
	l.probes++
	l.ownProbes[who]++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.probes--
		if l.ownProbes[who]--; l.ownProbes[who] == 0 {
			delete(l.ownProbes, who)
		}
	}, nil
}

// buckets are token buckets, one for each key that was active within the last
// seconds.
type buckets[K comparable] struct {
	perSecond float64 // static; 0: no limit

	met atomic.Int64 // how often there was nothing to take

	mu sync.Mutex
	// Guarded by mu.
	of    map[K]*rate.Limiter
	clean int // looked through when it has grown to so many
}

// take takes n, or nothing and says how long until it can be. More than fit into
// the bucket are taken when it is full, and leave a debt.
func (b *buckets[K]) take(key K, n int) (wait time.Duration) {
	if b.perSecond <= 0 || n == 0 {
		return 0
	}
	now := time.Now()
	burst := max(int(b.perSecond), 1)
	b.mu.Lock()
	defer b.mu.Unlock()
	bucket := b.of[key]
	if bucket == nil {
		if len(b.of) >= b.clean {
			for key, bucket := range b.of {
				if bucket.TokensAt(now) >= float64(burst) { // full: as good as new
					delete(b.of, key)
				}
			}
			b.clean = max(2*len(b.of), 1024)
		}
		bucket = rate.NewLimiter(rate.Limit(b.perSecond), burst)
		b.of[key] = bucket
	}
	first := bucket.ReserveN(now, min(n, burst))
	if wait := first.DelayFrom(now); wait > 0 {
		first.CancelAt(now)
		b.met.Add(1)
		return wait
	}
	for n -= burst; n > 0; n -= burst {
		bucket.ReserveN(now, min(n, burst))
	}
	return 0
}
