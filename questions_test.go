package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/event"
	"realtimehub/internal/quota"
	"realtimehub/internal/room"
)

// An id that would climb out of a path is not asked about, however it is written.
func TestNoIDClimbs(t *testing.T) {
	is := is.New(t)
	service := &memberService{members: `"user:me"`}
	members := room.NewService("http://members.example", "", nil)
	members.Client.Transport = service
	for id, climbing := range map[string]bool{
		"../globex": true, "a/../../globex": true, `a\..\b`: true, "..%2F..%2Fglobex%2Fr": true, "%2e%2e/x": true, "%252e%252e%252fx": true, "..;x/r": true, "./r": true,
		"a..b": false, "...": false, "a.b/c": false, "100%": false, "order-17": false,
	} {
		before := service.questions()
		_, err := members.Resolve(t.Context(), "acme", event.Room{Kind: event.KindConversation, ID: id})
		is.Equal(err != nil, climbing)                    // id
		is.Equal(service.questions() == before, climbing) // id
	}
	service.set(func() { service.asked = 0 })
	h := newTestHub(t, func(c *HubConfig, _ *PresenceConfig) { c.Resolver = members })
	status, answer := h.post(t, "/v1/events", eventJSON("acme", "a.b", `{"kind":"conversation","conversationId":"..%2Fglobex"}`, "1"))
	is.Equal(status, http.StatusBadRequest)
	is.Equal(answer["code"], "InvalidField")
	is.True(strings.Contains(answer["detail"].(string), "conversationId"))
	status, _ = h.do(t, "GET", "/v1/tenants/acme/groups/..%2Fglobex/members", "")
	is.Equal(status, http.StatusBadRequest)
	is.Equal(service.questions(), 0)
}

// One person who types in ever new conversations has so many questions asked at a time
// and no more, and another tenant's is asked at once.
func TestTypingAsksForFewAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		service := &memberService{members: `"user:me"`, gate: make(chan struct{})}
		_, handler := service.ruled(t)
		var typing sync.WaitGroup
		codes := make(chan int, 1000)
		for i := range cap(codes) {
			typing.Go(func() {
				codes <- call(handler, "POST", fmt.Sprint("/v1/conversations/r", i, "/typing?tenant=acme&profile=me"), `{"state":"started"}`).Code
			})
		}
		synctest.Wait()
		is.Equal(service.questions(), room.MembershipConns/2)
		typing.Go(func() {
			call(handler, "POST", "/v1/conversations/r/typing?tenant=globex&profile=me", `{"state":"started"}`)
		})
		synctest.Wait()
		is.Equal(service.questions(), room.MembershipConns/2+1)
		typing.Wait() // after 2 s all are told that nobody says
		close(codes)
		for code := range codes {
			is.Equal(code, http.StatusServiceUnavailable)
		}
		most := service.mostAtOnce()
		is.Equal(most, room.MembershipConns/2+1)
		close(service.gate) // some had a turn when the others had given up
		synctest.Wait()
	})
}

// What is kept of answers, those that say nothing too, is counted, and no tenant takes
// all; what there is no room for is for whoever asked.
func TestAnswersThatAreKeptAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		service := &memberService{members: `"user:me","user:you"`}
		state := quota.New[string](64<<10, 1)
		members := room.NewService("http://members.example", "", state)
		members.Client.Transport = service
		for i := range 1000 {
			roster, err := members.Resolve(t.Context(), "acme", event.Room{Kind: event.KindConversation, ID: fmt.Sprint("r", i)})
			is.NoErr(err)
			is.Equal(len(roster.Members), 2)
		}
		is.True(state.Of("acme") > 0 && state.Of("acme") <= 32<<10)
		kept := len(members.Answers)
		is.True(kept > 50 && kept < 150)
		asked := service.questions()
		members.Resolve(t.Context(), "acme", event.Room{Kind: event.KindConversation, ID: "r0"})
		is.Equal(service.questions(), asked) // kept
		_, err := members.Resolve(t.Context(), "globex", event.Room{Kind: event.KindConversation, ID: "r0"})
		is.NoErr(err)
		is.True(state.Of("globex") > 0)
		time.Sleep(2 * room.ResolvedTTL)
		members.Mu.Lock()
		members.PruneLocked(time.Now())
		members.Mu.Unlock()
		is.Equal(state.Total(), int64(0))
	})
}

// Calls that wait for an answer are counted with what they make the hub keep, one answer
// wakes those only who wait for it, and nothing is asked for, or kept, for who has left.
func TestCallsThatWaitForAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		service := &memberService{members: `"user:me"`, cache: []string{"no-store"}, gate: make(chan struct{})}
		state := quota.New[string](1<<20, 1)
		members := room.NewService("http://members.example", "", state)
		members.Client.Transport = service
		const rooms, answers = 1000, 300
		ctx, leave := context.WithCancel(t.Context())
		for i := range rooms {
			go members.Resolve(ctx, "acme", event.Room{Kind: event.KindConversation, ID: fmt.Sprint("r", i)})
		}
		synctest.Wait()
		is.True(state.Of("acme") >= rooms*room.MembershipBase)
		for range answers {
			service.gate <- struct{}{}
			synctest.Wait()
		}
		is.True(members.Turns.Pool().Refused() <= rooms+4*answers)
		leave()
		synctest.Wait()
		asked := answers + room.MembershipConns/2
		is.Equal(len(members.Answers), asked)
		is.Equal(members.Turns.Waiting("acme"), 0)
		close(service.gate)
		synctest.Wait()
		is.Equal(service.questions(), asked)
		is.Equal(members.Turns.Pool().Total(), int64(0))
		members.PruneLocked(time.Now().Add(2 * room.ResolvedTTL))
		is.Equal(state.Total(), int64(0))
	})
}
