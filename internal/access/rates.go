package access

import (
	"context"
	"fmt"
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

// RatesConfig is the limits of a second; 0 lifts a limit.
type RatesConfig struct {
	PublishRate float64          // events a second a tenant
	ClientRate  float64          // client calls a second a profile
	Quotas      *allowance.Pools // where it is counted what keeping account takes; nil: nowhere
	AdminRate   float64          // administrative calls a second, of one holder (Caller.Holder) about one tenant
}

// RateError says which rate limit was met, and when to come back.
type RateError struct {
	What  string
	After time.Duration
}

func (r *RateError) Error() string {
	return fmt.Sprintf("too many %s; try again in %.1f s", r.What, r.After.Seconds())
}

// Problem implements Answerer.
func (r *RateError) Problem() *problem.Problem {
	return &problem.Problem{Status: http.StatusTooManyRequests, Code: "RateLimited", Detail: r.Error(), After: r.After}
}

// How many probes there may be: each has a goroutine and timers, which no stream has.
const (
	maxProbes    = 384
	probesPart   = 15 // a tenant may have 24, and after ten who took all they could the next has enough for a doctor
	maxOwnProbes = 12 // a doctor opens up to six
)

// Errors of a probe that is refused.
var (
	errProbes    = problem.New("this tenant or address has used up its share of open probes; try again later", problem.Problem{Status: http.StatusServiceUnavailable, Code: "ProbesBusy"})
	errOwnProbes = problem.New(fmt.Sprintf("this profile, service or address has %d open probes, which is the limit; try again when one has ended", maxOwnProbes), problem.Problem{Status: http.StatusServiceUnavailable, Code: "ProbesBusy"})
)

// ErrDescriptors refuses streams and probes while only the reserve of file descriptors is
// left.
var ErrDescriptors = problem.New("the only file descriptors left are reserved for health checks and publishers; raise the limit on open files (ulimit -n)", problem.Problem{Status: http.StatusServiceUnavailable, Code: "ProbesBusy"})

// Rates bounds how often callers may call, and how many probes they may have open. Each
// tenant and each profile has limits of its own, so that nobody meets another's.
type Rates struct {
	publishing buckets[string]
	client     buckets[event.TenantProfile]
	probes     *quota.Pool[string] // by tenant
	admin      buckets[adminCaller]

	noProbe atomic.Int64 // how often none was to be had

	mu sync.Mutex
	// Guarded by mu.
	ownProbes map[event.TenantProfile]int
}

// NewRates makes Rates whose bursts may be as much as a second allows.
func NewRates(cfg RatesConfig) *Rates {
	if cfg.Quotas == nil {
		cfg.Quotas = &allowance.Pools{}
	}
	return &Rates{
		publishing: buckets[string]{perSecond: cfg.PublishRate, own: strings.Clone, count: func(tenant string, sign int64) {
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

// Publish takes so many events of each tenant. If one tenant has too few left it takes none
// at all, and the *RateError says when to come back.
func (r *Rates) Publish(events map[string]int) error {
	if wait := r.publishing.take(events); wait > 0 {
		return &RateError{"events of this tenant", wait}
	}
	return nil
}

// MayPublish says whether a tenant may publish now, and takes nothing: it is asked before the
// body is read. The error is a *RateError.
func (r *Rates) MayPublish(tenant string) error {
	if wait := r.publishing.until(tenant); wait > 0 {
		return &RateError{"events of this tenant", wait}
	}
	return nil
}

// Unpublish gives back what was taken for events that were not stored.
func (r *Rates) Unpublish(events map[string]int) { r.publishing.give(events) }

// Met counts how often each limit refused a call or made it wait.
func (r *Rates) Met() map[string]int64 {
	return map[string]int64{"publish": r.publishing.met.Load(), "client": r.client.met.Load(), "admin": r.admin.met.Load(), "probe": r.noProbe.Load()}
}

// AwaitPublish is Publish that waits until the limit allows it, or until ctx ends.
func (r *Rates) AwaitPublish(ctx context.Context, events map[string]int) error {
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		wait := r.publishing.take(events)
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

// Client takes one call of a profile; a *RateError says when to come back.
func (r *Rates) Client(who event.TenantProfile) error {
	if wait := r.client.take(map[event.TenantProfile]int{who: 1}); wait > 0 {
		return &RateError{"calls of this profile", wait}
	}
	return nil
}

// adminCaller is who is charged for an administrative call, and the tenant that it is about.
type adminCaller struct {
	tenant string
	holder event.TenantProfile
}

func (a adminCaller) clone() adminCaller {
	return adminCaller{strings.Clone(a.tenant), a.holder.Clone()}
}

// Admin takes one administrative call about a tenant; a *RateError says when to come back.
func (r *Rates) Admin(tenant string, holder event.TenantProfile) error {
	if r.admin.perSecond <= 0 || event.CheckTenant(tenant) != nil {
		return nil // which is refused
	}
	if wait := r.admin.take(map[adminCaller]int{{strings.Clone(tenant), holder}: 1}); wait > 0 {
		return &RateError{"administrative calls", wait}
	}
	return nil
}

// Probe takes one of the probes that the holder of a credential may have open, until over is
// called. The error says whose limit was met.
func (r *Rates) Probe(who event.TenantProfile) (over func(), err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.ownProbes[who] >= maxOwnProbes:
		err = errOwnProbes
	case !r.probes.Take(who.Tenant, 1):
		err = errProbes
	}
	if err != nil {
		r.noProbe.Add(1)
		return nil, err
	}
	r.ownProbes[who]++
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.probes.Give(who.Tenant, 1)
		if r.ownProbes[who]--; r.ownProbes[who] == 0 {
			delete(r.ownProbes, who)
		}
	}, nil
}
