package event

import (
	"cmp"
	"errors"
	"strings"

	"github.com/google/uuid"

	"realtimehub/internal/sized"
	"realtimehub/internal/strictjson"
)

// Profile names one person or actor of a tenant. It is a map key as it is: joined to one
// string, "a:b" and "c" would be the same as "a" and "b:c".
type Profile struct {
	Type string `json:"type"` // 1–32 of a-z0-9_-
	ID   string `json:"id"`   // 1–256 bytes of UTF-8 without control characters
}

// AppendJSON appends the object form.
func (p Profile) AppendJSON(b []byte) []byte {
	b = strictjson.AppendQuote(append(b, `{"type":`...), p.Type)
	b = strictjson.AppendQuote(append(b, `,"id":`...), p.ID)
	return append(b, '}')
}

// String is the text form, "type:id".
func (p Profile) String() string { return p.Type + ":" + p.ID }

// ParseProfile reads the text form, whose first colon ends the type. Without a colon the
// type is "user". The error is Check's.
func ParseProfile(text string) (Profile, error) {
	p := Profile{Type: "user", ID: text}
	if kind, id, found := strings.Cut(text, ":"); found {
		p = Profile{kind, id}
	}
	return p, p.Check()
}

// Check is the rule of a profile's type and id.
func (p Profile) Check() error {
	if !word(p.Type, 32, "_-") || strings.ToLower(p.Type) != p.Type {
		return errors.New("the type must be 1–32 of a-z0-9_-")
	}
	return CheckName(p.ID)
}

// ProfileText is the text form of a profile, which takes half the memory where there are many.
type ProfileText string

// Text is the text form, to be kept.
func (p Profile) Text() ProfileText { return ProfileText(p.String()) }

// Profile is what the text names. It takes no memory.
func (t ProfileText) Profile() Profile {
	kind, id, _ := strings.Cut(string(t), ":")
	return Profile{kind, id}
}

// Bytes is the memory that the names take.
func (p Profile) Bytes() int64 { return sized.Text(p.Type) + sized.Text(p.ID) }

// TenantProfile is a profile with its tenant: another tenant may have one of the same name.
type TenantProfile struct {
	Tenant  string
	Profile Profile
}

// Clone is a copy that keeps no memory alive but its own, such as the request that it was
// read from.
func (t TenantProfile) Clone() TenantProfile {
	return TenantProfile{strings.Clone(t.Tenant), Profile{strings.Clone(t.Profile.Type), strings.Clone(t.Profile.ID)}}
}

// CompareProfiles orders profiles by type, then by id, bytewise.
func CompareProfiles(a, b Profile) int {
	return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.ID, b.ID))
}

// TargetKind says how a target is resolved.
type TargetKind string

// The kinds of targets.
const (
	KindProfile      TargetKind = "profile"
	KindProfiles     TargetKind = "profiles"
	KindConversation TargetKind = "conversation"
	KindGroup        TargetKind = "group"
	KindTenant       TargetKind = "tenant"
	KindConnection   TargetKind = "connection"
)

// Target says whom an event is for. Of the fields that name somebody, those of its kind are
// set. The Exclude fields go with every kind.
type Target struct {
	Kind           TargetKind
	Profiles       []Profile // of KindProfile one, of KindProfiles any number
	ConversationID string
	GroupID        string
	ConnectionID   string

	ExcludeProfiles    []Profile
	ExcludeConnections []uuid.UUID
}

// ToProfile targets all connections of p.
func ToProfile(p Profile) Target { return Target{Kind: KindProfile, Profiles: []Profile{p}} }

// ToProfiles targets all connections of each of ps.
func ToProfiles(ps ...Profile) Target { return Target{Kind: KindProfiles, Profiles: ps} }

// ToConversation targets a conversation's members.
func ToConversation(id string) Target { return Target{Kind: KindConversation, ConversationID: id} }

// ToGroup targets a group's members.
func ToGroup(id string) Target { return Target{Kind: KindGroup, GroupID: id} }

// ToTenant targets every connection of the tenant.
func ToTenant() Target { return Target{Kind: KindTenant} }

// ToConnection targets one connection.
func ToConnection(id string) Target { return Target{Kind: KindConnection, ConnectionID: id} }

// ParseConnectionID takes the one form that connections' ids have.
func ParseConnectionID(text string) (uuid.UUID, error) {
	id, err := uuid.Parse(text)
	if err == nil && len(text) != 36 {
		err = errors.New("is not a UUID of 36 characters")
	}
	return id, err
}

// Room is the conversation or group that t names, if it names one.
func (t *Target) Room() (Room, bool) {
	switch t.Kind {
	case KindConversation:
		return Room{t.Kind, t.ConversationID}, true
	case KindGroup:
		return Room{t.Kind, t.GroupID}, true
	}
	return Room{}, false
}

// Room names a conversation or a group of a tenant: a set of profiles.
type Room struct {
	Kind TargetKind // KindConversation or KindGroup
	ID   string
}

// appendRecipients appends what AppendEnvelope leaves out.
func (t *Target) appendRecipients(b []byte) []byte {
	if t.ConnectionID != "" {
		b = strictjson.AppendQuote(append(b, `,"connectionId":`...), t.ConnectionID)
	}
	if len(t.Profiles) > 0 {
		b = appendList(append(b, `,"profiles":`...), t.Profiles, Profile.AppendJSON)
	}
	if len(t.ExcludeProfiles)+len(t.ExcludeConnections) > 0 {
		b = appendList(append(b, `,"exclude":{"profiles":`...), t.ExcludeProfiles, Profile.AppendJSON)
		b = appendList(append(b, `,"connectionIds":`...), t.ExcludeConnections, func(id uuid.UUID, b []byte) []byte {
			return strictjson.AppendQuote(b, id.String())
		})
		b = append(b, '}')
	}
	return b
}

func appendList[T any](b []byte, list []T, item func(T, []byte) []byte) []byte {
	b = append(b, '[')
	for i, x := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = item(x, b)
	}
	return append(b, ']')
}
