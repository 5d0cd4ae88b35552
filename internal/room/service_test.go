package room

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"realtimehub/internal/event"
	"realtimehub/internal/quota"
	"realtimehub/internal/room/roomtest"

	"github.com/matryer/is"
)

// What is kept of answers, those that say nothing too, is counted, and no tenant takes
// all; what there is no room for is for whoever asked.
func TestAnswersThatAreKeptAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		service := &roomtest.Service{Members: `"user:me","user:you"`}
		state := quota.New[string](64<<10, 1)
		members := NewService(ServiceConfig{URL: "http://members.example", State: state, Transport: service})
		for i := range 1000 {
			roster, err := members.Resolve(t.Context(), "acme", event.Room{Kind: event.KindConversation, ID: fmt.Sprint("r", i)})
			is.NoErr(err)
			is.Equal(len(roster.Members), 2)
		}
		is.True(state.Of("acme") > 0 && state.Of("acme") <= 32<<10)
		kept := len(members.answers)
		is.True(kept > 50 && kept < 150)
		asked := service.Questions()
		members.Resolve(t.Context(), "acme", event.Room{Kind: event.KindConversation, ID: "r0"})
		is.Equal(service.Questions(), asked) // kept
		_, err := members.Resolve(t.Context(), "globex", event.Room{Kind: event.KindConversation, ID: "r0"})
		is.NoErr(err)
		is.True(state.Of("globex") > 0)
		time.Sleep(2 * ResolvedTTL)
		members.mu.Lock()
		members.pruneLocked(time.Now())
		members.mu.Unlock()
		is.Equal(state.Total(), int64(0))
	})
}

// Calls that wait for an answer are counted with what they make the hub keep, one answer
// wakes those only who wait for it, and nothing is asked for, or kept, for who has left.
func TestCallsThatWaitForAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		service := &roomtest.Service{Members: `"user:me"`, Cache: []string{"no-store"}, Gate: make(chan struct{})}
		state := quota.New[string](1<<20, 1)
		members := NewService(ServiceConfig{URL: "http://members.example", State: state, Transport: service})
		const rooms, answers = 1000, 300
		ctx, leave := context.WithCancel(t.Context())
		for i := range rooms {
			go members.Resolve(ctx, "acme", event.Room{Kind: event.KindConversation, ID: fmt.Sprint("r", i)})
		}
		synctest.Wait()
		is.True(state.Of("acme") >= rooms*answerBase)
		for range answers {
			service.Gate <- struct{}{}
			synctest.Wait()
		}
		is.True(members.turns.Pool().Refused() <= rooms+4*answers)
		leave()
		synctest.Wait()
		asked := answers + mostQuestions/2
		is.Equal(len(members.answers), asked)
		is.Equal(members.turns.Waiting("acme"), 0)
		close(service.Gate)
		synctest.Wait()
		is.Equal(service.Questions(), asked)
		is.Equal(members.turns.Pool().Total(), int64(0))
		members.pruneLocked(time.Now().Add(2 * ResolvedTTL))
		is.Equal(state.Total(), int64(0))
	})
}

// An answer that does not say who the members are empties no room: the last one that did holds.
func TestAnAnswerWithoutMembers(t *testing.T) {
	for answer, members := range map[string]int{`{"members":null}`: 1, `{"members":""}`: 1, `{}`: 1, `{"members":[]}`: 0} {
		t.Run(answer, func(t *testing.T) {
			is := is.New(t)
			says := `{"members":["user:me"]}`
			service := roomtest.Transport(func(*http.Request) (*http.Response, error) {
				w := httptest.NewRecorder()
				w.Header().Set("Cache-Control", "no-store")
				w.WriteString(says)
				return w.Result(), nil
			})
			rooms := NewService(ServiceConfig{URL: "http://members.example", State: quota.New[string](1<<20, 1), Transport: service})
			_, err := rooms.Resolve(t.Context(), "acme", numbered(1))
			is.NoErr(err)
			says = answer
			roster, err := rooms.Resolve(t.Context(), "acme", numbered(1))
			is.NoErr(err)
			is.Equal(len(roster.Members), members)
		})
	}
}

// Who joins and who leaves is what one list has and the other has not.
func TestWhoJoinsAndLeaves(t *testing.T) {
	is := is.New(t)
	random := rand.New(rand.NewPCG(20, 1))
	without := func(list, other []event.Profile) (rest []event.Profile) {
		for _, p := range list {
			if !slices.Contains(other, p) {
				rest = append(rest, p)
			}
		}
		return rest
	}
	for range 300 {
		var m Memberships[*int]
		was, now := &Roster{}, &Roster{}
		for i := range random.IntN(30) {
			p := event.Profile{Type: "user", ID: fmt.Sprintf("%02d", i)}
			if random.IntN(2) == 0 {
				was.Members = append(was.Members, p)
				m.Add(numbered(1), p, 1)
			}
			if random.IntN(2) == 0 {
				now.Members = append(now.Members, p)
			}
		}
		wantJoin, wantLeave := without(now.Members, was.Members), without(was.Members, now.Members)
		join, leave := now.Differ(was)
		is.Equal(join, wantJoin)
		is.Equal(leave, wantLeave)
		join, leave = Differ(m.Snapshot(numbered(1)), slices.Concat(now.Members, now.Members))
		is.Equal(join, wantJoin)
		slices.SortFunc(leave, event.CompareProfiles)
		is.Equal(leave, wantLeave)
	}
}

// Whoever asks for one member looks at few, and an answer in another order changes nothing.
func TestAnAnswerIsInOrder(t *testing.T) {
	is := is.New(t)
	var before *Roster
	list := []event.Profile{{Type: "user", ID: "b"}, {Type: "user", ID: "a"}, {Type: "bot", ID: "z"}}
	roster := before.then(slices.Clone(list), 1)
	for _, p := range list {
		is.True(roster.Has(p))
	}
	is.True(!roster.Has(event.Profile{Type: "user", ID: "z"}))
	slices.Reverse(list)
	is.True(roster.then(list, 2).Same(roster))
	is.True(!roster.then(list[:2], 3).Same(roster))
}
