package main

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"realtimehub/internal/access"
	"realtimehub/internal/allowance"
	"realtimehub/internal/answer"
	"realtimehub/internal/event"
	"realtimehub/internal/presence"
	"realtimehub/internal/problem"
	"realtimehub/internal/request"
	"realtimehub/internal/strictjson"
)

// pathRoom is the tenant and the conversation or group of a path.
func pathRoom(r *http.Request, who *access.Caller) (tenant string, room event.Room, err error) {
	switch r.PathValue("rooms") {
	case "conversations":
		room.Kind = event.KindConversation
	case "groups":
		room.Kind = event.KindGroup
	default:
		return "", room, request.ErrNothingHere
	}
	var faults problem.Faults
	tenant, room.ID = who.Tenant(), strings.Clone(r.PathValue("id")) // what is kept must not hold all of the request
	faults.Tenant("tenantId", tenant)
	if err := event.CheckName(room.ID); err != nil {
		faults.Add(problem.CodeInvalidField, string(room.Kind)+"Id", "%v", err)
	}
	return tenant, room, faults.Err()
}

func (a *administrator) roomPresence(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	tenant, room, err := pathRoom(r, who)
	if err != nil {
		return err
	}
	l := a.list(r, who)
	defer l.Close()
	members, err := a.hub.members.Members(r.Context(), tenant, room, l.Begin)
	if err == nil {
		err = a.hub.tenants.EnsureAll(r.Context(), tenant)
	}
	if err != nil {
		return err
	}
	return a.presences(w, who, l, members, nil)
}

// presences answers with what is known of profiles that have a status which is wanted;
// nil: any.
func (a *administrator) presences(w http.ResponseWriter, who *access.Caller, l answer.List, profiles []event.Profile, wanted func(presence.Status) bool) error {
	return presenceRows(w, l.Call(), profiles, l.Turn, func(some []event.Profile) []presence.Person {
		list := a.people.Of(who.Tenant(), some)
		if wanted != nil {
			list = slices.DeleteFunc(list, func(p presence.Person) bool { return !wanted(p.Status) })
		}
		return list
	})
}

func (a *administrator) members(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	tenant, room, err := pathRoom(r, who)
	if err != nil {
		return err
	}
	l := a.list(r, who)
	defer l.Close()
	members, err := a.hub.members.Members(r.Context(), tenant, room, l.Begin)
	if err != nil {
		return err
	}
	return answer.ProfileRows(w, l.Call(), "members", members, l.Turn)
}

func (a *administrator) setMembers(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	tenant, room, err := pathRoom(r, who)
	if err != nil {
		return err
	}
	memory := a.quotas.Body(who.Holder(r))
	defer memory.Close()
	var members []event.Profile
	found := false
	err = a.bodies.Object(r, memory, func(f *problem.Faults, name string, v strictjson.Value) {
		if name != "members" {
			f.Add(problem.CodeUnknownField, name, `the body has "members" only`)
			return
		}
		found = !problem.Absent(v)
		members = f.Profiles(problem.CodeInvalidField, name, v)
	})
	if err == nil && !found {
		err = &problem.FieldError{Code: problem.CodeInvalidField, Field: "members", Index: -1, Detail: "an array of profiles is needed"}
	}
	if err == nil && !a.hub.tenants.InCluster() { // in one, most of the time is waited for others
		over, taken := request.ListTurn(r.Context(), tenant, len(members))
		if taken != nil {
			return taken
		}
		defer over()
	}
	if err == nil {
		err = a.hub.members.SetMembers(r.Context(), tenant, room, members)
	}
	if err != nil {
		return err
	}
	return answer.NoContent(w)
}

func (a *administrator) refreshMembers(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	tenant, room, err := pathRoom(r, who)
	if err == nil {
		err = a.cluster.Refresh(r.Context(), tenant, room)
	}
	if err != nil {
		return err
	}
	return answer.NoContent(w)
}

func (a *administrator) addMember(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	return a.changeMember(w, r, who, a.hub.members.AddMember)
}

func (a *administrator) removeMember(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	return a.changeMember(w, r, who, a.hub.members.RemoveMember)
}

func (a *administrator) changeMember(w http.ResponseWriter, r *http.Request, who *access.Caller, do func(context.Context, string, event.Room, event.Profile) error) error {
	tenant, room, err := pathRoom(r, who)
	if err != nil {
		return err
	}
	p, err := event.ParseProfile(strings.Clone(r.PathValue("p")))
	if err != nil {
		return &problem.FieldError{Code: problem.CodeInvalidProfile, Field: "profile", Index: -1, Detail: err.Error()}
	}
	if err := do(r.Context(), tenant, room, p); err != nil {
		return err
	}
	return answer.NoContent(w)
}

// presenceRows answers with what is known of profiles, some of which are asked about at
// a time.
func presenceRows(w http.ResponseWriter, memory *allowance.Call, profiles []event.Profile, turn func(size int) (over func(), err error), ask func([]event.Profile) []presence.Person) error {
	out, err := answer.NewRows(w, http.StatusOK, memory, "profiles")
	if err != nil {
		return err
	}
	return out.Profiles(profiles, turn, func(some []event.Profile) {
		for _, p := range ask(some) {
			text, _ := json.Marshal(p) // of texts alone
			out.Put(func(b []byte) []byte { return append(b, text...) })
		}
	})
}
