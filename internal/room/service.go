package room

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"realtimehub/internal/event"
	"realtimehub/internal/fair"
	"realtimehub/internal/problem"
	"realtimehub/internal/quota"
	"realtimehub/internal/strictjson"
)

// Bounds of the questions to a membership service, and of its answers.
const (
	membershipTimeout = 2 * time.Second
	membershipBytes   = 1 << 20
	membershipTTL     = 30 * time.Second // how long an answer holds that does not say
	membershipMost    = time.Hour        // and one that does, at most
	membershipRetry   = time.Second      // after a failure
	mostQuestions     = 128              // questions to the service at a time; a tenant has a part of those that are left
	answerBase        = 256              // what an answer takes in memory without its members, as measured
)

// Service is the Resolver of hubs whose membership another service owns. That answers
// GET URL?tenant={t}&conversation={id} (or group) with {"members":[…]}; 404 means no members.
// An answer holds as long as its Cache-Control says. A room has one question at a time under
// way, and a tenant so many. While the service fails, its last good answer is used.
type Service struct {
	// Static.
	base, token string
	client      *http.Client
	state       *quota.Pool[string]     // bytes of answers that are kept, by tenant
	turns       *fair.Semaphore[string] // questions under way, by tenant
	away        func() int64            // static once somebody asks: how often this hub was away; nil: alone, it never was

	mu sync.Mutex
	// Guarded by mu.
	answers map[Key]*answer
	asked   uint64 // questions
	prune   int    // the size at which old answers are looked for
}

// answer is one room's, guarded by the service's mu.
type answer struct {
	waiting  int           // calls that want it
	asking   chan struct{} // closed at the end of the question that is to come or under way; nil: there is none
	giveUp   func()        // ends the wait for that one's turn
	begun    uint64        // the number of the last question
	left     int64         // how often this hub had been away by then
	answered uint64        // the number of the last one that is over
	err      error         // of that one
	roster   *Roster       // the last good answer; nil: never resolved
	until    time.Time     // so long nobody asks again
	bytes    int64         // taken of the service's state
}

// ServiceConfig is where a membership service is, and what it may use.
type ServiceConfig struct {
	URL       string
	Token     string              // a Bearer token; empty: none
	State     *quota.Pool[string] // where answers that are kept are counted, in bytes by tenant; nil: nowhere
	Transport http.RoundTripper   // nil: HTTP
}

// NewService makes a Resolver that asks a service.
func NewService(cfg ServiceConfig) *Service {
	if cfg.Transport == nil {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.MaxConnsPerHost, transport.MaxIdleConnsPerHost = mostQuestions, mostQuestions
		cfg.Transport = transport
	}
	return &Service{
		base: cfg.URL, token: cfg.Token, state: cfg.State, turns: fair.NewSemaphore(quota.New[string](mostQuestions, 1)),
		client: &http.Client{
			Transport:     cfg.Transport,
			Timeout:       membershipTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		answers: map[Key]*answer{}, prune: 1024,
	}
}

// Resolve implements Resolver. It fails only for a room that was never resolved.
func (s *Service) Resolve(ctx context.Context, tenant string, room event.Room) (*Roster, error) {
	roster, err := s.resolve(ctx, Key{tenant, room}, false)
	if roster != nil {
		return roster, nil
	}
	return nil, err
}

// Away implements Refresher.
func (s *Service) Away(times func() int64) { s.away = times }

func (s *Service) left() int64 {
	if s.away == nil {
		return 0
	}
	return s.away()
}

// Refresh implements Refresher.
func (s *Service) Refresh(ctx context.Context, tenant string, room event.Room) (*Roster, error) {
	return s.resolve(ctx, Key{tenant, room}, true)
}

// resolve waits, as long as ctx allows, for an answer that still holds; if anew is true, for
// the answer to a question that begins after the call. Calls that came before the question
// share its answer. The roster is the last good one, also beside an error.
func (s *Service) resolve(ctx context.Context, key Key, anew bool) (*Roster, error) {
	if climbs(key.Room.ID) {
		return nil, &problem.FieldError{Code: problem.CodeInvalidField, Field: string(key.Room.Kind) + "Id", Index: -1, Detail: "an id with a dot segment (\".\" or \"..\" between slashes) is not sent to the membership service"}
	}
	left := s.left()
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.answerLocked(key)
	a.waiting++
	defer s.leaveLocked(key, a)
	came := a.begun
	for a.answered <= came && (anew || a.left < left || !time.Now().Before(a.until)) {
		if err := ctx.Err(); err != nil {
			return a.roster, err
		}
		if a.asking == nil {
			a.asking = make(chan struct{})
			var turn context.Context
			turn, a.giveUp = context.WithCancel(context.Background())
			go s.question(turn, key, a)
		}
		over := a.asking
		s.mu.Unlock()
		select {
		case <-over:
		case <-ctx.Done():
		}
		s.mu.Lock()
	}
	return a.roster, a.err
}

// leaveLocked ends a call's wait. A question that nobody waits for is not asked.
func (s *Service) leaveLocked(key Key, a *answer) {
	if a.waiting--; a.waiting > 0 {
		return
	}
	if a.asking != nil {
		a.giveUp()
	} else if a.answered == 0 {
		s.dropLocked(key, a)
	}
}

// question asks when its turn comes, for all calls that wait. One that leaves does not fail
// the others.
func (s *Service) question(turn context.Context, key Key, a *answer) {
	err := s.turns.Acquire(turn, key.Tenant)
	a.giveUp()
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() {
		close(a.asking)
		a.asking = nil
	}()
	if err != nil {
		if a.waiting == 0 && a.answered == 0 {
			s.dropLocked(key, a)
		}
		return
	}
	s.asked++
	a.begun, a.left = s.asked, s.left()
	roster, asked := a.roster, a.begun
	s.mu.Unlock()
	members, holds, err := s.ask(context.Background(), key.Tenant, key.Room)
	s.turns.Release(key.Tenant)
	if err == nil {
		roster = roster.then(members, asked)
	} else {
		holds = membershipRetry
	}
	s.mu.Lock()
	a.roster = roster
	a.err, a.until, a.answered = err, time.Now().Add(holds), a.begun
	s.keepLocked(key, a)
}

// keepLocked keeps an answer if its tenant has memory left for it. Otherwise only the calls
// that wait for it have it.
func (s *Service) keepLocked(key Key, a *answer) {
	if s.answers[key] != a {
		return
	}
	bytes := answerBytes(key)
	if a.roster != nil {
		bytes += a.roster.bytes
	}
	s.dropLocked(key, a)
	if s.state.Take(key.Tenant, bytes) {
		s.answers[key], a.bytes = a, bytes
	}
}

func (s *Service) dropLocked(key Key, a *answer) {
	if s.answers[key] == a {
		s.state.Give(key.Tenant, a.bytes)
		delete(s.answers, key)
		a.bytes = 0
	}
}

// answerBytes is the memory of an answer without its members.
func answerBytes(key Key) int64 { return int64(answerBase + len(key.Room.ID)) }

// memberBytes is the memory of a profile without its texts.
const memberBytes = 32

// climbs says whether an id has a dot segment (RFC 3986, section 5.2.4), encoded or not. With
// a proxy in between that decodes it, it would ask for another tenant's room.
func climbs(id string) bool {
	for range 3 {
		for segment := range strings.FieldsFuncSeq(id, func(r rune) bool { return r == '/' || r == '\\' }) {
			if segment, _, _ = strings.Cut(segment, ";"); segment == "." || segment == ".." {
				return true
			}
		}
		decoded, err := url.PathUnescape(id)
		if err != nil || decoded == id {
			return false
		}
		id = decoded
	}
	return false
}

func (s *Service) answerLocked(key Key) *answer {
	a := s.answers[key]
	if a == nil {
		if len(s.answers) >= s.prune {
			s.pruneLocked(time.Now())
		}
		a = &answer{bytes: answerBytes(key)}
		s.answers[key] = a
		s.state.Force(key.Tenant, a.bytes) // it is there while somebody waits for it
	}
	return a
}

// pruneLocked drops answers that nobody has asked for in a long time. Those without members
// go as soon as they no longer hold.
func (s *Service) pruneLocked(now time.Time) {
	for key, a := range s.answers {
		old := now.Sub(a.until)
		if a.waiting == 0 && a.asking == nil && (old > ResolvedTTL || old > 0 && (a.roster == nil || len(a.roster.Members) == 0)) {
			s.dropLocked(key, a)
		}
	}
	s.prune = max(1024, 2*len(s.answers))
}

// ask asks the service for a room's members, and says how long the answer holds.
func (s *Service) ask(ctx context.Context, tenant string, room event.Room) (members []event.Profile, holds time.Duration, err error) {
	query := url.Values{"tenant": {tenant}, string(room.Kind): {room.ID}} // a path is not taken as it is by all that may be in between
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base+"?"+query.Encode(), nil)
	if err != nil {
		return nil, 0, err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Cache-Control", "no-cache") // the hub keeps it; what a cache in between has may be older
	if s.token != "" {
		req.Header.Set("Authorization", "Bearer "+s.token)
	}
	res, err := s.client.Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer res.Body.Close()
	holds = holdsFor(res.Header)
	if res.StatusCode == http.StatusNotFound {
		return nil, holds, nil
	}
	if res.StatusCode != http.StatusOK {
		return nil, 0, fmt.Errorf("the service answered with status %d", res.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, membershipBytes+1))
	if err != nil {
		return nil, 0, err
	}
	if len(body) > membershipBytes {
		return nil, 0, errors.New("the service's answer is larger than 1 MiB")
	}
	// Fields that we don't know are the service's own affair.
	var faults problem.Faults
	found := false
	if err := strictjson.Object(body, func(name []byte, v strictjson.Value) {
		if string(name) == "members" {
			found = !problem.Absent(v) // nobody is []
			members = faults.Profiles(problem.CodeInvalidField, "members", v)
		}
	}); err != nil {
		return nil, 0, err
	}
	if !found {
		return nil, 0, errors.New(`the service's answer has no "members"`)
	}
	return members, holds, faults.Err()
}

// holdsFor is how long an answer holds (RFC 9111, section 5.2.2): the shortest time that its
// Cache-Control has. A time that cannot be read counts as 0.
func holdsFor(h http.Header) time.Duration {
	holds, said := membershipMost, false
	for _, line := range h.Values("Cache-Control") {
		for directive := range strings.SplitSeq(line, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
			seconds := 0
			switch strings.ToLower(name) {
			case "max-age":
				seconds, _ = strconv.Atoi(strings.Trim(value, `"`)) // too many are the most there are
			case "no-cache", "no-store":
			default:
				continue
			}
			said = true
			holds = min(holds, time.Duration(max(0, min(seconds, int(membershipMost/time.Second))))*time.Second)
		}
	}
	if !said {
		return membershipTTL
	}
	return holds
}
