package access

import (
	"cmp"
	"net/http"
	"net/url"
	"strings"
	"time"

	"realtimehub/internal/event"
	"realtimehub/internal/lobby"
	"realtimehub/internal/problem"
)

// Scope is a set of permissions of a credential. The route table says which of them each
// route needs.
type Scope uint8

// The scopes there are.
const (
	ScopeSubscribe Scope = 1 << iota
	ScopePublish
	ScopeAdmin
	ScopeAll // what shows every tenant: only an API key for all (*) has it, no token
)

// scopeOf is the scope of a word in a token, or 0 if there is none of that name.
func scopeOf(name string) Scope {
	switch name {
	case "subscribe":
		return ScopeSubscribe
	case "publish":
		return ScopePublish
	case "admin":
		return ScopeAdmin
	}
	return 0
}

// String lists the names of the scopes: "admin or publish".
func (s Scope) String() string {
	var names []string
	for _, name := range []string{"admin", "publish", "subscribe"} {
		if s&scopeOf(name) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, " or ")
}

// Caller is who a request acts for. Only Admit makes one, so that its tenant is proven.
type Caller struct {
	tenant  string        // where it may act; "*": everywhere
	path    string        // the tenant of the request's path, if it has one
	profile event.Profile // of a token
	expires time.Time     // of the token; zero: never
	open    bool          // nobody has proven anything
}

// Expires is when the token ends; zero: never.
func (c *Caller) Expires() time.Time { return c.expires }

// Tenant is the tenant of the request's path.
func (c *Caller) Tenant() string { return c.path }

// Reaches says whether the caller may act in a tenant.
func (c *Caller) Reaches(tenant string) bool { return c.tenant == "*" || c.tenant == tenant }

// Only is the tenant of the call if there can be only one, else "".
func (c *Caller) Only() string {
	switch {
	case c.path != "":
		return c.path
	case c.tenant != "*":
		return c.tenant
	}
	return ""
}

// Client is the tenant and the profile that a browser's request acts for. They are the
// token's; in open mode the request names them, in its query or else in its headers.
func (c *Caller) Client(r *http.Request, query url.Values) (tenant string, p event.Profile, err error) {
	if !c.open {
		return c.tenant, c.profile, nil
	}
	var faults problem.Faults
	tenant = strings.Clone(cmp.Or(query.Get("tenant"), r.Header.Get("X-Tenant-Id")))
	faults.Tenant("tenant", tenant)
	p = faults.Profile("profile", strings.Clone(cmp.Or(query.Get("profile"), r.Header.Get("X-Profile-Id"))))
	return tenant, p, faults.Err()
}

// Viewer is Client for a call whose parameter "profile" names who is asked about: in open
// mode the viewer is in the header, or there is none.
func (c *Caller) Viewer(r *http.Request, query url.Values) (tenant string, p event.Profile, err error) {
	if !c.open {
		return c.tenant, c.profile, nil
	}
	var faults problem.Faults
	tenant = cmp.Or(query.Get("tenant"), r.Header.Get("X-Tenant-Id"))
	faults.Tenant("tenant", tenant)
	if text := r.Header.Get("X-Profile-Id"); text != "" {
		p = faults.Profile("X-Profile-Id", text)
	}
	return tenant, p, faults.Err()
}

// Holder is who is charged for what the call takes: a profile, or a tenant's services
// together. In open mode, where nobody is proven, an address stands in the tenant's place.
func (c *Caller) Holder(r *http.Request) event.TenantProfile {
	if c.open {
		return event.TenantProfile{Tenant: lobby.PlaceOf(r)}
	}
	return event.TenantProfile{Tenant: c.tenant, Profile: c.profile}
}

// Proven says that the caller has shown a credential; in open mode nobody has.
func (c *Caller) Proven() bool { return !c.open }

// Is says whether the caller is a tenant's profile; in open mode it may be anybody.
func (c *Caller) Is(tenant string, p event.Profile) bool {
	return c.open || tenant == c.tenant && p == c.profile
}

// scopes are those of an API key.
func (c *Caller) scopes() Scope {
	if c.tenant == "*" {
		return ScopePublish | ScopeAdmin | ScopeAll
	}
	return ScopePublish | ScopeAdmin
}
