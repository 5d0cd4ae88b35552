package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"realtimehub/internal/strictjson"
)

// The bounds of a membership service's answers.
const (
	membershipTimeout = 2 * time.Second
	membershipBytes   = 1 << 20
	membershipTTL     = 30 * time.Second
	membershipRetry   = time.Second // after a failure
)

// MembershipService is the Resolver of hubs whose membership another service
// owns: GET URL/tenants/{t}/conversations/{id}/members (or groups) answers
// {"members":[…]}, 404 is empty. One request at a time a room; while it fails
// the last good answer serves.
type MembershipService struct {
	base, token string
	client      *http.Client

	mu      sync.Mutex
	answers map[tenantRoom]*answer // guarded by mu
	prune   int                    // guarded by mu: the size at which old answers are looked for
}

type tenantRoom struct {
	tenant string
	room   Room
}

// answer is one room's; the token in turn is held by who asks, and guards it.
type answer struct {
	turn   chan struct{}
	roster *Roster // nil: never resolved
	until  time.Time
	err    error // of a room that was never resolved
}

// NewMembershipService asks the service at base with a Bearer token, if any.
func NewMembershipService(base, token string) *MembershipService {
	return &MembershipService{
		base: strings.TrimSuffix(base, "/"), token: token,
		client: &http.Client{
			Timeout:       membershipTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		answers: map[tenantRoom]*answer{}, prune: 1024,
	}
}

// Resolve returns the members; an error only for a room never resolved.
func (m *MembershipService) Resolve(ctx context.Context, tenant string, room Room) (*Roster, error) {
	a := m.answer(tenantRoom{tenant, room})
	select {
	case a.turn <- struct{}{}:
		defer func() { <-a.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if time.Now().Before(a.until) {
		return a.roster, a.err
	}
	// The client's leaving must not fail the others who wait for this answer.
	members, err := m.ask(context.WithoutCancel(ctx), tenant, room)
	switch {
	case err == nil:
		a.roster, a.err, a.until = &Roster{members}, nil, time.Now().Add(membershipTTL)
	case a.roster != nil:
		a.until = time.Now().Add(membershipRetry)
	default:
		a.err, a.until = err, time.Now().Add(membershipRetry)
	}
	return a.roster, a.err
}

func (m *MembershipService) answer(key tenantRoom) *answer {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.answers[key]
	if a == nil {
		if len(m.answers) >= m.prune {
			m.pruneLocked(time.Now())
		}
		a = &answer{turn: make(chan struct{}, 1)}
		m.answers[key] = a
	}
	return a
}

// pruneLocked drops answers that nobody has asked for in a long time, and sooner
// those that say nothing.
func (m *MembershipService) pruneLocked(now time.Time) {
	for key, a := range m.answers {
		select {
		case a.turn <- struct{}{}:
			old := now.Sub(a.until)
			if old > resolvedTTL || old > 0 && (a.roster == nil || len(a.roster.Members) == 0) {
				delete(m.answers, key)
			}
			<-a.turn
		default: // being asked now
		}
	}
	m.prune = max(1024, 2*len(m.answers))
}

func (m *MembershipService) ask(ctx context.Context, tenant string, room Room) ([]ProfileRef, error) {
	target := fmt.Sprintf("%s/tenants/%s/%ss/%s/members", m.base, url.PathEscape(tenant), room.Kind, url.PathEscape(room.ID))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	if m.token != "" {
		req.Header.Set("Authorization", "Bearer "+m.token)
	}
	res, err := m.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusNotFound {
		return nil, nil
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", res.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, membershipBytes+1))
	if err != nil {
		return nil, err
	}
	if len(body) > membershipBytes {
		return nil, errors.New("an answer of more than 1 MiB")
	}
	// Fields that we don't know are the service's own affair.
	var members []ProfileRef
	var faults Faults
	found := false
	if err := strictjson.Object(body, func(name []byte, v strictjson.Value) {
		if string(name) == "members" {
			found = true
			members = faults.profiles(CodeInvalidField, "members", v)
		}
	}); err != nil {
		return nil, err
	}
	if !found {
		return nil, errors.New(`an answer without "members"`)
	}
	return members, faults.Err()
}
