package main

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/matryer/is"

	"realtimehub/internal/event"
	"realtimehub/internal/room"
	"realtimehub/internal/room/roomtest"
)

// An id that would climb out of a path is not asked about, however it is written.
func TestNoIDClimbs(t *testing.T) {
	is := is.New(t)
	service := &roomtest.Service{Members: `"user:me"`}
	members := room.NewService(room.ServiceConfig{URL: "http://members.example", Transport: service})
	for id, climbing := range map[string]bool{
		"../globex": true, "a/../../globex": true, `a\..\b`: true, "..%2F..%2Fglobex%2Fr": true, "%2e%2e/x": true, "%252e%252e%252fx": true, "..;x/r": true, "./r": true,
		"a..b": false, "...": false, "a.b/c": false, "100%": false, "order-17": false,
	} {
		before := service.Questions()
		_, err := members.Resolve(t.Context(), "acme", event.Room{Kind: event.KindConversation, ID: id})
		is.Equal(err != nil, climbing)                    // id
		is.Equal(service.Questions() == before, climbing) // id
	}
	service.Forget()
	h := newTestHub(t, func(c *HubConfig, _ *PresenceConfig) { c.Resolver = members })
	status, answer := h.post(t, "/v1/events", eventJSON("acme", "a.b", `{"kind":"conversation","conversationId":"..%2Fglobex"}`, "1"))
	is.Equal(status, http.StatusBadRequest)
	is.Equal(answer["code"], "InvalidField")
	is.True(strings.Contains(answer["detail"].(string), "conversationId"))
	status, _ = h.do(t, "GET", "/v1/tenants/acme/groups/..%2Fglobex/members", "")
	is.Equal(status, http.StatusBadRequest)
	is.Equal(service.Questions(), 0)
}

// One person who types in ever new conversations has so many questions asked at a time
// and no more, and another tenant's is asked at once.
func TestTypingAsksForFewAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		const half = 128 / 2 // of the questions that there may be at a time (docs/limits.md)
		service := &roomtest.Service{Members: `"user:me"`, Gate: make(chan struct{})}
		_, handler := ruled(t, service)
		var typing sync.WaitGroup
		codes := make(chan int, 1000)
		for i := range cap(codes) {
			typing.Go(func() {
				codes <- call(handler, "POST", fmt.Sprint("/v1/conversations/r", i, "/typing?tenant=acme&profile=me"), `{"state":"started"}`).Code
			})
		}
		synctest.Wait()
		is.Equal(service.Questions(), half)
		typing.Go(func() {
			call(handler, "POST", "/v1/conversations/r/typing?tenant=globex&profile=me", `{"state":"started"}`)
		})
		synctest.Wait()
		is.Equal(service.Questions(), half+1)
		typing.Wait() // after 2 s all are told that nobody says
		close(codes)
		for code := range codes {
			is.Equal(code, http.StatusServiceUnavailable)
		}
		most := service.MostAtOnce()
		is.Equal(most, half+1)
		close(service.Gate) // some had a turn when the others had given up
		synctest.Wait()
	})
}
