package main

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"realtimehub/internal/strictjson"
)

// profileSize is what a list takes for each profile; the names are the rooms' own.
const profileSize = 32

// administrator shows and changes one tenant, for its services.
type administrator struct {
	// Static.
	hub      *Hub
	cluster  *Cluster
	presence *Presence
	bodies   bodyLimit
	quotas   *Quotas
}

// pathTenant is the tenant of an administrative call.
func pathTenant(who *Caller) (string, error) {
	var faults Faults
	tenant := who.Tenant()
	faults.tenant("tenantId", tenant)
	return tenant, faults.Err()
}

// pathRoom is the tenant and the conversation or group of a path.
func pathRoom(r *http.Request, who *Caller) (tenant string, room Room, err error) {
	switch r.PathValue("rooms") {
	case "conversations":
		room.Kind = KindConversation
	case "groups":
		room.Kind = KindGroup
	default:
		return "", room, errNothingHere
	}
	var faults Faults
	tenant, room.ID = who.Tenant(), r.PathValue("id")
	faults.tenant("tenantId", tenant)
	if err := checkName(room.ID); err != nil {
		faults.add(CodeInvalidField, string(room.Kind)+"Id", "%v", err)
	}
	return tenant, room, faults.Err()
}

func (a *administrator) connections(w http.ResponseWriter, r *http.Request, who *Caller) error {
	tenant, err := pathTenant(who)
	if err != nil {
		return err
	}
	var faults Faults
	query := r.URL.Query()
	var of *ProfileRef
	if text := query.Get("profile"); text != "" {
		p := faults.profile("profile", text)
		of = &p
	}
	limit := pageLimit(&faults, query)
	if err := faults.Err(); err != nil {
		return err
	}
	list := a.cluster.Connections(r.Context(), tenant, of)
	count := len(list)
	if after := strings.ToLower(query.Get("after")); after != "" {
		from, _ := slices.BinarySearchFunc(list, after, func(c *Connection, id string) int {
			if c.ID.String() <= id {
				return -1
			}
			return 1
		})
		list = list[from:]
	}
	var next *string
	if len(list) > limit {
		list = list[:limit]
		id := list[limit-1].ID.String()
		next = &id
	}
	list = slices.Clone(list) // which was as long as the tenant is large
	memory := a.quotas.Answer(r, who)
	defer memory.close()
	out, err := newRows(w, http.StatusOK, memory, "connections")
	if err != nil {
		return err
	}
	for _, c := range list {
		if !out.value(wireConnection(c)) {
			break
		}
	}
	return out.end("count", count, "next", next)
}

// tenantConnection finds a connection of the path's tenant.
func (a *administrator) tenantConnection(r *http.Request, who *Caller) (*Connection, error) {
	tenant, err := pathTenant(who)
	if err != nil {
		return nil, err
	}
	c := a.cluster.Find(r.Context(), r.PathValue("id"))
	if c == nil || c.Tenant != tenant {
		return nil, errNoConnection
	}
	return c, nil
}

func (a *administrator) connection(w http.ResponseWriter, r *http.Request, who *Caller) error {
	c, err := a.tenantConnection(r, who)
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, wireConnection(c))
}

func (a *administrator) kick(w http.ResponseWriter, r *http.Request, who *Caller) error {
	c, err := a.tenantConnection(r, who)
	if err != nil {
		return err
	}
	return done(w, a.cluster.Kick(r.Context(), c, CloseKicked))
}

func (a *administrator) kickProfile(w http.ResponseWriter, r *http.Request, who *Caller) error {
	tenant, err := pathTenant(who)
	if err != nil {
		return err
	}
	var faults Faults
	p := faults.profile("profile", r.URL.Query().Get("profile"))
	if err := faults.Err(); err != nil {
		return err
	}
	a.cluster.KickAll(r.Context(), a.cluster.Connections(r.Context(), tenant, &p), CloseKicked)
	return noContent(w)
}

// history answers whole envelopes, as they were published, a piece of the history after
// the other.
func (a *administrator) history(w http.ResponseWriter, r *http.Request, who *Caller) error {
	tenant, err := pathTenant(who)
	if err != nil {
		return err
	}
	var faults Faults
	query := r.URL.Query()
	limit := pageLimit(&faults, query)
	if err := faults.Err(); err != nil {
		return err
	}
	memory := a.quotas.Answer(r, who)
	defer memory.close()
	out, err := newRows(w, http.StatusOK, memory, "events")
	if err != nil {
		return err
	}
	page, gap, err := a.hub.History(r.Context(), tenant, query.Get("after"), limit)
	if err == nil && !memory.use(page.weight()) {
		err = ErrAnswers
	}
	if err != nil {
		return err
	}
	for {
		for _, e := range page.Entries {
			if !out.add(e.Event.AppendWhole) {
				return nil
			}
		}
		if limit -= len(page.Entries); limit <= 0 || !page.cut() {
			break
		}
		memory.back(rowsBytes)
		next, lost, err := a.hub.History(r.Context(), tenant, page.Next.String(), limit)
		if err != nil || lost || !memory.use(next.weight()) {
			break // whoever asks for what comes next is told
		}
		page = next
	}
	return out.end("cursor", page.Next.String(), "gap", gap)
}

// pageLimit is how many items one answer may have.
func pageLimit(f *Faults, query url.Values) int {
	text := query.Get("limit")
	if text == "" {
		return 100
	}
	limit, err := strconv.Atoi(text)
	if err != nil || limit < 1 || limit > 1000 {
		f.add(CodeInvalidField, "limit", "must be 1–1000")
	}
	return limit
}

func (a *administrator) tenantPresence(w http.ResponseWriter, r *http.Request, who *Caller) error {
	tenant, err := pathTenant(who)
	if err != nil {
		return err
	}
	var faults Faults
	query := r.URL.Query()
	asked := askedProfiles(&faults, query)
	status := Status(query.Get("status"))
	if status != "" && status != Online && status != Away && status != Offline {
		faults.add(CodeInvalidField, "status", "must be online, away or offline")
	}
	if err := faults.Err(); err != nil {
		return err
	}
	if err := a.hub.Know(r.Context(), tenant); err != nil {
		return err
	}
	if len(asked) == 0 {
		return a.presences(w, r, who, tenant, a.presence.All(tenant, status), func(s Status) bool { return s.is(status) })
	}
	return a.presences(w, r, who, tenant, asked, func(s Status) bool { return status == "" || s == status })
}

// presences answers with what is known of a tenant's profiles that have a status which
// is wanted, however many they are.
func (a *administrator) presences(w http.ResponseWriter, r *http.Request, who *Caller, tenant string, profiles []ProfileRef, wanted func(Status) bool) error {
	memory := a.quotas.Answer(r, who)
	defer memory.close()
	if !memory.use(profileSize * len(profiles)) {
		return ErrAnswers
	}
	out, err := newRows(w, http.StatusOK, memory, "profiles")
	if err != nil {
		return err
	}
	for some := range slices.Chunk(profiles, 100) {
		for _, p := range a.presence.Of(tenant, some) {
			if wanted(p.Status) && !out.value(p) {
				return nil
			}
		}
	}
	return out.end()
}

// anyStatus wants all.
func anyStatus(Status) bool { return true }

// queryPresence is tenantPresence of profiles that a body names.
func (a *administrator) queryPresence(w http.ResponseWriter, r *http.Request, who *Caller) error {
	tenant, err := pathTenant(who)
	if err != nil {
		return err
	}
	memory := a.quotas.Body(r, who)
	defer memory.close()
	asked, err := smallCall.profiles(r, memory)
	if err == nil {
		err = question(a.hub.Know(r.Context(), tenant))
	}
	if err != nil {
		return err
	}
	return a.presences(w, r, who, tenant, asked, anyStatus)
}

func (a *administrator) profilePresence(w http.ResponseWriter, r *http.Request, who *Caller) error {
	tenant, err := pathTenant(who)
	if err != nil {
		return err
	}
	p, err := ParseProfile(r.PathValue("profile"))
	if err != nil {
		return &FieldError{CodeInvalidProfile, "profile", -1, err.Error()}
	}
	if err := a.hub.Know(r.Context(), tenant); err != nil {
		return err
	}
	return a.presences(w, r, who, tenant, []ProfileRef{p}, anyStatus)
}

func (a *administrator) roomPresence(w http.ResponseWriter, r *http.Request, who *Caller) error {
	tenant, room, err := pathRoom(r, who)
	if err != nil {
		return err
	}
	members, err := a.hub.Members(r.Context(), tenant, room)
	if err == nil {
		err = a.hub.Know(r.Context(), tenant)
	}
	if err != nil {
		return err
	}
	return a.presences(w, r, who, tenant, members, anyStatus)
}

func (a *administrator) members(w http.ResponseWriter, r *http.Request, who *Caller) error {
	tenant, room, err := pathRoom(r, who)
	if err != nil {
		return err
	}
	members, err := a.hub.Members(r.Context(), tenant, room)
	if err != nil {
		return err
	}
	memory := a.quotas.Answer(r, who)
	defer memory.close()
	if !memory.use(profileSize * len(members)) {
		return ErrAnswers
	}
	out, err := newRows(w, http.StatusOK, memory, "members")
	if err != nil {
		return err
	}
	for _, p := range members {
		if !out.add(p.AppendJSON) {
			break
		}
	}
	return out.end()
}

func (a *administrator) setMembers(w http.ResponseWriter, r *http.Request, who *Caller) error {
	tenant, room, err := pathRoom(r, who)
	if err != nil {
		return err
	}
	memory := a.quotas.Body(r, who)
	defer memory.close()
	var members []ProfileRef
	found := false
	err = a.bodies.object(r, memory, func(f *Faults, name string, v strictjson.Value) {
		if name != "members" {
			f.add(CodeUnknownField, name, `the body has "members" only`)
			return
		}
		found = !absent(v)
		members = f.profiles(CodeInvalidField, name, v)
	})
	if err == nil && !found {
		err = &FieldError{CodeInvalidField, "members", -1, "an array of profiles is needed"}
	}
	if err == nil {
		err = a.hub.SetMembers(r.Context(), tenant, room, members)
	}
	if err != nil {
		return err
	}
	return noContent(w)
}

func (a *administrator) refreshMembers(w http.ResponseWriter, r *http.Request, who *Caller) error {
	tenant, room, err := pathRoom(r, who)
	if err == nil {
		err = a.cluster.Refresh(r.Context(), tenant, room)
	}
	if err != nil {
		return err
	}
	return noContent(w)
}

func (a *administrator) addMember(w http.ResponseWriter, r *http.Request, who *Caller) error {
	return a.changeMember(w, r, who, a.hub.AddMember)
}

func (a *administrator) removeMember(w http.ResponseWriter, r *http.Request, who *Caller) error {
	return a.changeMember(w, r, who, a.hub.RemoveMember)
}

func (a *administrator) changeMember(w http.ResponseWriter, r *http.Request, who *Caller, do func(context.Context, string, Room, ProfileRef) error) error {
	tenant, room, err := pathRoom(r, who)
	if err != nil {
		return err
	}
	p, err := ParseProfile(r.PathValue("p"))
	if err != nil {
		return &FieldError{CodeInvalidProfile, "profile", -1, err.Error()}
	}
	if err := do(r.Context(), tenant, room, p); err != nil {
		return err
	}
	return noContent(w)
}
