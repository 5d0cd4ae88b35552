package main

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"realtimehub/internal/access"
	"realtimehub/internal/allowance"
	"realtimehub/internal/answer"
	"realtimehub/internal/client"
	"realtimehub/internal/cluster"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/outbox"
	"realtimehub/internal/presence"
	"realtimehub/internal/problem"
	"realtimehub/internal/request"
)

// administrator shows and changes one tenant, for its services.
type administrator struct {
	// Static.
	hub     *Hub
	cluster *cluster.Cluster
	people  *presence.People
	bodies  request.Limit
	quotas  *allowance.Pools
}

// pathTenant is the tenant of an administrative call.
func pathTenant(who *access.Caller) (string, error) {
	var faults problem.Faults
	tenant := who.Tenant()
	faults.Tenant("tenantId", tenant)
	return tenant, faults.Err()
}

func (a *administrator) connections(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	tenant, err := pathTenant(who)
	if err != nil {
		return err
	}
	var faults problem.Faults
	query := faults.Query(r.URL.RawQuery)
	var of *event.Profile
	if text := query.Get("profile"); text != "" {
		p := faults.Profile("profile", text)
		of = &p
	}
	limit := request.PageLimit(&faults, query)
	if err := faults.Err(); err != nil {
		return err
	}
	l := a.list(r, who)
	defer l.Close()
	page, err := a.cluster.Connections(r.Context(), tenant, of, strings.ToLower(query.Get("after")), limit, l.Begin)
	if err != nil {
		return err
	}
	var next *string
	if page.More {
		id := page.List[len(page.List)-1].ID.String()
		next = &id
	}
	out, err := answer.NewRows(w, http.StatusOK, l.Call(), "connections")
	if err != nil {
		return err
	}
	for _, c := range page.List {
		if !out.Value(wireConnection(c)) {
			break
		}
	}
	return out.End("count", page.Count, "next", next)
}

// tenantConnection finds a connection of the path's tenant.
func (a *administrator) tenantConnection(r *http.Request, who *access.Caller) (*delivery.Connection, error) {
	tenant, err := pathTenant(who)
	if err != nil {
		return nil, err
	}
	c, err := a.cluster.Find(r.Context(), r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	if c == nil || c.Tenant != tenant {
		return nil, client.ErrNoConnection
	}
	return c, nil
}

func (a *administrator) connection(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	c, err := a.tenantConnection(r, who)
	if err != nil {
		return err
	}
	return answer.JSON(w, http.StatusOK, wireConnection(c))
}

func (a *administrator) kick(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	tenant, err := pathTenant(who)
	if err != nil {
		return err
	}
	found, err := a.cluster.KickOne(r.Context(), tenant, r.PathValue("id"), delivery.CloseKicked)
	if err == nil && !found {
		err = client.ErrNoConnection
	}
	return done(w, err)
}

func (a *administrator) kickProfile(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	tenant, err := pathTenant(who)
	if err != nil {
		return err
	}
	var faults problem.Faults
	p := faults.Profile("profile", faults.Query(r.URL.RawQuery).Get("profile"))
	if err := faults.Err(); err != nil {
		return err
	}
	if err := a.cluster.KickProfile(r.Context(), tenant, p, delivery.CloseKicked); err != nil {
		return err
	}
	return answer.NoContent(w)
}

// history answers whole envelopes, as they were published, a piece of the history after
// the other.
func (a *administrator) history(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	tenant, err := pathTenant(who)
	if err != nil {
		return err
	}
	var faults problem.Faults
	query := faults.Query(r.URL.RawQuery)
	limit := request.PageLimit(&faults, query)
	if err := faults.Err(); err != nil {
		return err
	}
	memory := a.quotas.Answer(who.Holder(r))
	defer memory.Close()
	out, err := answer.NewRows(w, http.StatusOK, memory, "events")
	if err != nil {
		return err
	}
	page, gap, err := a.hub.History(r.Context(), tenant, query.Get("after"), limit)
	if err == nil && !memory.Use(page.Size()) {
		err = allowance.ErrAnswers
	}
	if err != nil {
		return err
	}
	for {
		for _, e := range page.Entries {
			if !out.Add(e.Event.AppendWhole) {
				return nil
			}
		}
		if limit -= len(page.Entries); limit <= 0 || !page.More() {
			break
		}
		memory.Back(answer.RowsBytes)
		next, lost, err := a.hub.History(r.Context(), tenant, page.Next.String(), limit)
		if err != nil || lost || !memory.Use(next.Size()) {
			break // whoever asks for what comes next is told
		}
		page = next
	}
	return out.End("cursor", page.Next.String(), "gap", gap)
}

// outbox answers what services are told, as the webhook sends it, a piece after the other.
func (a *administrator) outbox(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	tenant, err := pathTenant(who)
	if err != nil {
		return err
	}
	var faults problem.Faults
	query := faults.Query(r.URL.RawQuery)
	limit, after := request.PageLimit(&faults, query), seqOf(&faults, query)
	if err := faults.Err(); err != nil {
		return err
	}
	memory := a.quotas.Answer(who.Holder(r))
	defer memory.Close()
	out, err := answer.NewRows(w, http.StatusOK, memory, "items")
	if err != nil {
		return err
	}
	page, err := a.hub.outbox.Read(r.Context(), tenant, outbox.Query{After: after, Limit: limit, Bytes: historyBytes})
	if err == nil && !memory.Use(page.Size()) {
		err = allowance.ErrAnswers
	}
	if err != nil {
		return err
	}
	gap, next := page.Gap(after), page.Next(after)
	for {
		for i := range page.Items {
			if !out.Add(page.Items[i].AppendJSON) {
				return nil
			}
		}
		if limit -= len(page.Items); limit <= 0 || next >= page.Newest {
			break
		}
		memory.Back(answer.RowsBytes)
		more, err := a.hub.outbox.Read(r.Context(), tenant, outbox.Query{After: next, Limit: limit, Bytes: historyBytes})
		if err != nil || more.Gap(next) || !memory.Use(more.Size()) {
			break // whoever asks for what comes next is told
		}
		page, next = more, more.Next(next)
	}
	return out.End("next", next, "gap", gap)
}

// seqOf is the place after which items are asked for; 0: from the oldest.
func seqOf(f *problem.Faults, query url.Values) uint64 {
	text := query.Get("after")
	if text == "" {
		return 0
	}
	seq, err := strconv.ParseUint(text, 10, 53)
	if err != nil {
		f.Add(problem.CodeInvalidField, "after", "must be the number of an item, as \"seq\" or \"next\" has it")
	}
	return seq
}

func (a *administrator) tenantPresence(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	tenant, err := pathTenant(who)
	if err != nil {
		return err
	}
	var faults problem.Faults
	query := faults.Query(r.URL.RawQuery)
	asked := request.ProfilesOf(&faults, query)
	status := presence.Status(query.Get("status"))
	if status != "" && status != presence.Online && status != presence.Away && status != presence.Offline {
		faults.Add(problem.CodeInvalidField, "status", "must be online, away or offline")
	}
	if err := faults.Err(); err != nil {
		return err
	}
	if err := a.hub.tenants.EnsureAll(r.Context(), tenant); err != nil {
		return err
	}
	l := a.list(r, who)
	defer l.Close()
	wanted := func(s presence.Status) bool { return status == "" || s == status }
	if len(asked) == 0 {
		var err error
		if asked, err = a.people.All(tenant, status, l.Begin); err != nil {
			return err
		}
		wanted = func(s presence.Status) bool { return s.Is(status) } // it may have changed
	}
	return a.presences(w, who, l, asked, wanted)
}

func (a *administrator) list(r *http.Request, who *access.Caller) answer.List {
	return answer.NewList(r.Context(), who.Tenant(), a.quotas.Answer(who.Holder(r)))
}

// queryPresence is tenantPresence of profiles that a body names.
func (a *administrator) queryPresence(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	tenant, err := pathTenant(who)
	if err != nil {
		return err
	}
	memory := a.quotas.Body(who.Holder(r))
	defer memory.Close()
	asked, err := request.Small.Profiles(r, memory)
	if err == nil {
		err = problem.OfQuestion(a.hub.tenants.EnsureAll(r.Context(), tenant))
	}
	if err != nil {
		return err
	}
	l := a.list(r, who)
	defer l.Close()
	return a.presences(w, who, l, asked, nil)
}

func (a *administrator) profilePresence(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	tenant, err := pathTenant(who)
	if err != nil {
		return err
	}
	p, err := event.ParseProfile(r.PathValue("profile"))
	if err != nil {
		return &problem.FieldError{Code: problem.CodeInvalidProfile, Field: "profile", Index: -1, Detail: err.Error()}
	}
	if err := a.hub.tenants.EnsureAll(r.Context(), tenant); err != nil {
		return err
	}
	l := a.list(r, who)
	defer l.Close()
	return a.presences(w, who, l, []event.Profile{p}, nil)
}

// connection is a Connection on the wire.
type connection struct {
	ID             string             `json:"id"`
	TenantID       string             `json:"tenantId"`
	Profile        event.Profile      `json:"profile"`
	Transport      delivery.Transport `json:"transport"`
	ConnectedAt    string             `json:"connectedAt"`
	LastActivityAt string             `json:"lastActivityAt"`
	Metadata       map[string]string  `json:"metadata"`
}

func wireConnection(c *delivery.Connection) connection {
	metadata := c.Metadata
	if metadata == nil {
		metadata = map[string]string{}
	}
	return connection{c.ID.String(), c.Tenant, c.Profile, c.Transport, event.FormatTime(c.ConnectedAt), event.FormatTime(c.LastActivity()), metadata}
}
