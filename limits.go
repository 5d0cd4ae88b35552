package main

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"realtimehub/internal/allowance"
	"realtimehub/internal/event"
	"realtimehub/internal/problem"
	"realtimehub/internal/quota"
	"realtimehub/internal/sized"
)

// LimitsConfig is how much one may do; 0 lifts a limit.
type LimitsConfig struct {
	PublishRate float64          // events a second a tenant
	ClientRate  float64          // client calls a second a profile
	Quotas      *allowance.Pools // where it is counted what keeping account takes; nil: nowhere
	AdminRate   float64          // administrative calls a second, of one credential about one tenant
}

// RateError says that a rate limit was met, and when to come back.
type RateError struct {
	What  string
	After time.Duration
}

func (e *RateError) Error() string {
	return fmt.Sprintf("too many %s; try again in %.1f s", e.What, e.After.Seconds())
}

// Problem implements Answerer.
func (e *RateError) Problem() *problem.Problem {
	return &problem.Problem{Status: http.StatusTooManyRequests, Code: "RateLimited", Detail: e.Error(), After: e.After}
}

// How many probes there may be: each has a goroutine and timers, which no stream has.
const (
	maxProbes    = 256
	probesPart   = 15 // a tenant may have 16, and after ten who took all they could the next has enough for a doctor
	maxOwnProbes = 8  // a doctor opens up to six
)

// Why there is no probe to be had.
var (
	ErrProbes    = problem.New("as many probes of this tenant or address are open as it may have beside the others now; try again later", problem.Problem{Status: http.StatusServiceUnavailable, Code: "ProbesBusy"})
	ErrOwnProbes = problem.New(fmt.Sprintf("%d probes of this profile, service or address are open, which is as many as one may have; try again when one is over", maxOwnProbes), problem.Problem{Status: http.StatusServiceUnavailable, Code: "ProbesBusy"})
)

// ErrDescriptors is why there is no stream, nor a probe, to be had when the reserve of
// descriptors has begun.
var ErrDescriptors = problem.New("the descriptors that are left are for health checks and publishers; raise the limit on open files (ulimit -n)", problem.Problem{Status: http.StatusServiceUnavailable, Code: "ProbesBusy"})

// Limits bounds how often, and how many at a time. Each tenant and each profile has its
// own measure, so that one at its limit is no other's concern.
type Limits struct {
	publish buckets[string]
	client  buckets[event.TenantProfile]
	probes  *quota.Pool[string] // by tenant
	admin   buckets[adminCaller]

	noProbe atomic.Int64 // how often none was to be had

	mu sync.Mutex
	// Guarded by mu.
	ownProbes map[event.TenantProfile]int
}

// NewLimits makes full buckets: a burst may be one second's worth.
func NewLimits(cfg LimitsConfig) *Limits {
	if cfg.Quotas == nil {
		cfg.Quotas = &allowance.Pools{}
	}
	return &Limits{
		publish: buckets[string]{perSecond: cfg.PublishRate, own: strings.Clone, count: func(tenant string, sign int64) {
			cfg.Quotas.State.Force(tenant, sign*(bucketBytes+sized.Text(tenant)))
		}},
		client: buckets[event.TenantProfile]{perSecond: cfg.ClientRate, own: event.TenantProfile.Clone, count: func(who event.TenantProfile, sign int64) {
			cfg.Quotas.State.Force(who.Tenant, sign*(bucketBytes+sized.Text(who.Tenant)+who.Profile.Bytes()))
		}},
		probes: quota.New[string](maxProbes, probesPart),
		admin: buckets[adminCaller]{perSecond: cfg.AdminRate, own: adminCaller.clone, count: func(who adminCaller, sign int64) {
			cfg.Quotas.State.Force(who.holder.Tenant, sign*(bucketBytes+sized.Text(who.tenant)+sized.Text(who.holder.Tenant)+who.holder.Profile.Bytes()))
		}},

		ownProbes: map[event.TenantProfile]int{},
	}
}

// Publish takes so many events of each tenant, or none of any and says when: a
// *RateError.
func (l *Limits) Publish(events map[string]int) error {
	if wait := l.publish.take(events); wait > 0 {
		return &RateError{"events of this tenant", wait}
	}
	return nil
}

// MayPublish is Publish of one event that is not taken yet, for who would rather know
// before the event has come.
func (l *Limits) MayPublish(tenant string) error {
	if wait := l.publish.until(tenant); wait > 0 {
		return &RateError{"events of this tenant", wait}
	}
	return nil
}

// Unpublish gives back events that were taken and then not stored.
func (l *Limits) Unpublish(events map[string]int) { l.publish.give(events) }

// Met is how often a limit refused somebody, or had them wait.
func (l *Limits) Met() map[string]int64 {
	return map[string]int64{"publish": l.publish.met.Load(), "client": l.client.met.Load(), "admin": l.admin.met.Load(), "probe": l.noProbe.Load()}
}

// AwaitPublish is Publish for who would rather wait, as long as ctx does.
func (l *Limits) AwaitPublish(ctx context.Context, events map[string]int) error {
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		wait := l.publish.take(events)
		if wait == 0 {
			return nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// Client takes one call of a profile, or says when: a *RateError.
func (l *Limits) Client(who event.TenantProfile) error {
	if wait := l.client.take(map[event.TenantProfile]int{who: 1}); wait > 0 {
		return &RateError{"calls of this profile", wait}
	}
	return nil
}

// adminCaller is a credential's holder and the tenant that it asks about.
type adminCaller struct {
	tenant string
	holder event.TenantProfile
}

func (c adminCaller) clone() adminCaller {
	return adminCaller{strings.Clone(c.tenant), c.holder.Clone()}
}

// Admin takes one administrative call about a tenant, or says when: a *RateError.
func (l *Limits) Admin(tenant string, holder event.TenantProfile) error {
	if l.admin.perSecond <= 0 || event.CheckTenant(tenant) != nil {
		return nil // which is refused
	}
	if wait := l.admin.take(map[adminCaller]int{{strings.Clone(tenant), holder}: 1}); wait > 0 {
		return &RateError{"administrative calls", wait}
	}
	return nil
}

// Probe takes one of the probes that the holder of a credential may have, until over
// is called: [ErrOwnProbes] or [ErrProbes] when there is none.
func (l *Limits) Probe(who event.TenantProfile) (over func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.ownProbes[who] >= maxOwnProbes:
		err = ErrOwnProbes
	case !l.probes.Take(who.Tenant, 1):
		err = ErrProbes
	}
	if err != nil {
		l.noProbe.Add(1)
		return nil, err
	}
	l.ownProbes[who]++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.probes.Give(who.Tenant, 1)
		if l.ownProbes[who]--; l.ownProbes[who] == 0 {
			delete(l.ownProbes, who)
		}
	}, nil
}

// buckets are token buckets, one for each key that was active within the last
// seconds.
type buckets[K comparable] struct {
	// Static.
	perSecond float64              // 0: no limit
	own       func(K) K            // a key that is not a piece of a whole request
	count     func(key K, n int64) // what a bucket takes, 1 when it is made and -1 when it is not needed any more

	met atomic.Int64 // how often there was nothing to take

	mu sync.Mutex
	// Guarded by mu.
	of    sized.Table[K, *bucket]
	clean int // looked through when it has grown to so many
}

// bucketBytes is what is kept of each takes, beside names.
const bucketBytes = 32 + 2*57

// bucket is what one may have at once, as of a time; less than nothing is owed.
type bucket struct {
	tokens float64
	at     time.Time
}

// burst is how much fits into a bucket: one second's worth.
func (b *buckets[K]) burst() float64 { return max(math.Floor(b.perSecond), 1) }

// take takes so many of each key, or nothing of any and says how long until it can be.
// More than fit into a bucket are taken when it is full, and leave a debt.
func (b *buckets[K]) take(wants map[K]int) (wait time.Duration) {
	if b.perSecond <= 0 {
		return 0
	}
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	for key, n := range wants {
		short := min(float64(n), b.burst()) - b.filledLocked(key, now).tokens
		wait = max(wait, time.Duration(min(short/b.perSecond, 1e9)*float64(time.Second)))
	}
	if wait > 0 {
		b.met.Add(1)
		return wait
	}
	for key, n := range wants {
		b.filledLocked(key, now).tokens -= float64(n)
	}
	return 0
}

// until is how long until there is one of a key, which is not taken.
func (b *buckets[K]) until(key K) time.Duration {
	if b.perSecond <= 0 {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	short := 0.0
	if b.of.Get(key) != nil {
		short = 1 - b.filledLocked(key, time.Now()).tokens
	}
	if short <= 0 {
		return 0
	}
	b.met.Add(1)
	return max(time.Duration(min(short/b.perSecond, 1e9)*float64(time.Second)), 1)
}

// give gives back what was taken.
func (b *buckets[K]) give(wants map[K]int) {
	if b.perSecond <= 0 {
		return
	}
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	for key, n := range wants {
		bucket := b.filledLocked(key, now)
		bucket.tokens = min(bucket.tokens+float64(n), b.burst())
	}
}

// filledLocked is a key's bucket with what has come into it until now.
func (b *buckets[K]) filledLocked(key K, now time.Time) *bucket {
	fill := func(x *bucket) *bucket {
		x.tokens = min(x.tokens+now.Sub(x.at).Seconds()*b.perSecond, b.burst())
		x.at = now
		return x
	}
	if x := b.of.Get(key); x != nil {
		return fill(x)
	}
	if b.of.Len() >= b.clean {
		for key, x := range b.of.All() {
			if fill(x).tokens >= b.burst() { // as good as new
				b.of.Delete(key)
				b.count(key, -1)
			}
		}
		b.clean = max(2*b.of.Len(), 1024)
	}
	x := &bucket{b.burst(), now}
	key = b.own(key)
	b.of.Put(key, x)
	b.count(key, 1)
	return x
}
