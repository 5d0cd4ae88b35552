package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/outbox"
)

const hook = "https://api.example.com/hooks"

// What is sent is as the page and the specification have it, and signed.
func TestABatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		s := stand(t, hook+"/{tenant}", &service{}, nil)
		at := time.Now()
		s.put(t, "acme", 1)
		time.Sleep(gatherTime - 1)
		synctest.Wait()
		is.Equal(len(s.service.sent()), 0) // it gathers
		s.put(t, "acme", 1)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		got := s.service.sent()
		is.Equal(len(got), 1)
		m := got[0]
		is.Equal(m.url, hook+"/acme")
		is.Equal(m.header.Get("Content-Type"), "application/json")
		is.Equal(m.timestamp, strconv.FormatInt(m.at.Unix(), 10))
		is.True(checks(testSecret, m.id, m.timestamp, m.signature, m.body))
		is.True(!checks(testSecret, m.id, m.timestamp, m.signature, append(m.body, ' ')))
		is.True(strings.HasPrefix(m.id, "msg_") && !strings.Contains(m.id, "."))
		items, seqs := s.kept(t, "acme")
		is.Equal(m.seqs, seqs)
		is.Equal(string(m.body), `{"type":"batch","timestamp":"`+at.Add(gatherTime-1).UTC().Format("2006-01-02T15:04:05.000Z")+`","data":{"items":[`+strings.Join(items, ",")+`]}}`)
		is.Equal(s.Stats(), Stats{Answers: map[Answer]int64{"2xx": 1, "3xx": 0, "4xx": 0, "5xx": 0, "timeout": 0, "error": 0}, Items: 2})
		is.Equal(s.box.Stats().Untaken, 0)
		is.Equal(len(s.lines), 0) // of whom nothing is left to be sent nothing is kept
	})
}

// A hundred items wait for no more, and a batch has no more than that, nor too many bytes.
func TestHowMuchABatchHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		s := stand(t, hook, &service{}, nil)
		sizes := func() (n []int) {
			synctest.Wait()
			for _, m := range s.service.sent() {
				n = append(n, len(m.seqs))
			}
			return n
		}
		s.put(t, "acme", 99)
		is.Equal(sizes(), nil)
		s.put(t, "acme", 251)
		is.Equal(sizes(), []int{100, 100, 100})
		time.Sleep(gatherTime - 1)
		is.Equal(sizes(), nil)
		time.Sleep(time.Nanosecond)
		is.Equal(sizes(), []int{50})
		large := outbox.Draft{Type: outbox.TypeUndelivered, Data: json.RawMessage(`{"x":"` + strings.Repeat("x", batchBytes/4) + `"}`)}
		is.NoErr(s.box.Put(t.Context(), "acme", "", []outbox.Draft{large, large, large, large, large}))
		time.Sleep(gatherTime)
		is.Equal(sizes(), []int{3})
		time.Sleep(gatherTime)
		is.Equal(sizes(), []int{2})
	})
}

// However many tenants' endpoints hang, the others wait for none of them.
func TestOneTenantsEndpointHoldsNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		s := stand(t, hook+"/{tenant}", &service{answer: func(m message, _ int) reply {
			if strings.HasPrefix(m.tenant, "slow") {
				return reply{status: http.StatusOK, after: answerTime - time.Second}
			}
			return reply{status: http.StatusOK}
		}}, nil)
		for range 5 {
			for i := range 3 * places {
				s.put(t, fmt.Sprint("slow", i), 200)
			}
			time.Sleep(time.Minute)
		}
		s.service.sent()
		for i := range 100 {
			s.put(t, fmt.Sprint("slow", i%3*places), 1)
			s.put(t, fmt.Sprint("quick", i), 1)
		}
		time.Sleep(gatherTime)
		synctest.Wait()
		quick := 0
		for _, m := range s.service.sent() {
			if strings.HasPrefix(m.tenant, "quick") {
				quick++
			}
		}
		is.Equal(quick, 100)
		one, all := s.service.crowd()
		is.Equal(one, 1)
		is.True(all > slowPlaces && all <= places)
	})
}

// A tenant that was slow is slow when it comes again, though it had taken all; and quick once it
// has answered quickly. What it lets grow old in between says nothing of it.
func TestASlowTenantIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		hangs := func(m message, _ int) reply {
			if strings.HasPrefix(m.tenant, "slow") {
				return reply{status: http.StatusOK, after: answerTime - time.Second}
			}
			return reply{status: http.StatusOK}
		}
		s := stand(t, hook+"/{tenant}", &service{answer: hangs}, nil)
		some := func(put func(tenant string)) {
			for i := range places {
				put(fmt.Sprint("slow", i))
			}
		}
		one := func(tenant string) { s.put(t, tenant, 1) }
		atOnce := func() {
			t.Helper()
			s.service.sent()
			some(one)
			time.Sleep(gatherTime + time.Millisecond)
			one("quick")
			time.Sleep(gatherTime + time.Millisecond)
			is.True(slices.ContainsFunc(s.service.sent(), func(m message) bool { return m.tenant == "quick" }))
		}
		some(one)
		time.Sleep(time.Minute)
		for range 4 {
			atOnce()
			time.Sleep(time.Minute)
			synctest.Wait()
			is.Equal(len(s.lines), 0) // all was taken
		}
		s.service.answers(always(http.StatusInternalServerError))
		some(one)
		time.Sleep(2 * outbox.TTL)
		is.Equal(s.box.Stats().Untaken, 0)
		s.service.answers(hangs)
		atOnce()
		synctest.Wait()
		is.Equal(len(s.slow.places), places)

		s.service.answers(always(http.StatusOK))
		time.Sleep(time.Minute)
		some(one)
		time.Sleep(time.Second)
		synctest.Wait()
		is.Equal(len(s.slow.places), 0)
	})
}

// Of the slow ones so many are remembered, of whom the last to be slow are not forgotten.
func TestHowManySlowTenantsAreRemembered(t *testing.T) {
	is := is.New(t)
	s := newSlowTenants()
	for i := range mostSlow {
		s.set(fmt.Sprint(i), true)
	}
	s.set("0", true) // again
	s.set("one more", true)
	s.set("quick", false)
	is.Equal(len(s.places), mostSlow)
	is.Equal(s.order.Len(), mostSlow)
	is.True(s.has("0") && s.has("one more") && s.has("2"))
	is.True(!s.has("1") && !s.has("quick"))
}

// Whatever an endpoint does, what it has taken of a tenant is that tenant's order without gaps,
// of which one batch was under way at a time; and it is what a service would pull.
func TestOrderWhileHalfFails(t *testing.T) {
	for seed := range uint64(10) {
		synctest.Test(t, func(t *testing.T) {
			is := is.New(t)
			random, fate := rand.New(rand.NewPCG(seed, 0)), rand.New(rand.NewPCG(seed, 1))
			took := map[string][]uint64{}
			takes := func(m message, _ int) reply {
				for _, seq := range m.seqs {
					if list := took[m.tenant]; len(list) == 0 || list[len(list)-1] < seq {
						took[m.tenant] = append(list, seq)
					}
				}
				return reply{status: http.StatusOK, after: time.Duration(fate.IntN(2000)) * time.Millisecond}
			}
			s := stand(t, hook, &service{answer: func(m message, nth int) reply {
				switch fate.IntN(6) {
				case 0:
					return reply{status: http.StatusBadGateway}
				case 1:
					return reply{err: errors.New("connection reset"), after: time.Second}
				case 2:
					return reply{status: http.StatusOK, after: time.Hour}
				}
				return takes(m, nth)
			}}, nil)
			for range 300 {
				s.put(t, fmt.Sprint("tenant", random.IntN(5)), 1+random.IntN(3))
				time.Sleep(time.Duration(random.IntN(300)) * time.Millisecond)
			}
			s.service.answers(takes)
			time.Sleep(24 * time.Hour)
			got := s.service.sent()
			for tenant, list := range took {
				items, seqs := s.kept(t, tenant)
				is.Equal(list, seqs)
				is.Equal(pushed(t, tenant, got), items)
			}
			one, _ := s.service.crowd()
			is.Equal(one, 1)
			is.Equal(s.box.Stats().Untaken, 0)
			ids := map[string][]byte{}
			for _, m := range got {
				if was, ok := ids[m.id]; ok {
					is.Equal(was, m.body) // an id is of one body
				}
				ids[m.id] = m.body
			}
		})
	}
}

// At the end what has been gathered is sent, and nothing waits for who does not answer.
func TestTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		s := stand(t, hook+"/{tenant}", &service{answer: func(m message, _ int) reply {
			switch m.tenant {
			case "hangs":
				return reply{status: http.StatusOK, after: time.Hour}
			case "fails":
				return reply{status: http.StatusInternalServerError}
			}
			return reply{status: http.StatusOK}
		}}, nil)
		s.put(t, "fails", 1)
		time.Sleep(time.Hour) // it fails again and again
		s.service.sent()
		s.put(t, "acme", 150)
		synctest.Wait()
		at := time.Now()
		s.end()
		is.Equal(time.Since(at), 0*time.Second)
		got := s.service.sent()
		is.Equal(len(got), 2)
		is.Equal(len(got[0].seqs)+len(got[1].seqs), 150)

		s = stand(t, hook+"/{tenant}", s.service, nil)
		synctest.Wait() // until it sends at all: another process might
		s.put(t, "hangs", 1)
		s.put(t, "new", 1)
		s.put(t, "fails", 1)
		at = time.Now()
		s.end()
		is.Equal(time.Since(at), lastTime)
		is.Equal(len(s.service.sent()), 3)
		is.Equal(s.box.Stats().Untaken, 2)
	})
}

// late is a box in which something happens just after it was read in vain.
type late struct {
	*outbox.Memory
	happens func()
}

func (b *late) Read(ctx context.Context, tenant string, q outbox.Query) (outbox.Page, error) {
	page, err := b.Memory.Read(ctx, tenant, q)
	if len(page.Items) == 0 {
		b.happens()
	}
	return page, err
}

// What comes while a tenant's last items are found to be gone is sent all the same.
func TestWhatComesAsOthersGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		box := &late{Memory: outbox.NewMemory(outbox.MemoryConfig{})}
		s := stand(t, hook, &service{answer: always(http.StatusNotFound)}, box)
		s.box = box.Memory
		times := 0
		box.happens = func() {
			if times++; times == 1 {
				s.put(t, "acme", 1)
			}
		}
		s.put(t, "acme", 1)
		time.Sleep(outbox.TTL)
		is.True(len(s.service.sent()) > 5)
		s.service.answers(nil)
		time.Sleep(2 * longestDelay)
		is.Equal(len(s.service.sent()), 1)
		is.Equal(times, 1)
		is.Equal(s.Stats().Lost, int64(1))
		is.True(s.says("the service has to pull"))
		is.Equal(box.Stats().Untaken, 0)
	})
}

// turns is a box that several processes share: who sends is said by the test.
type turns struct {
	*outbox.Memory
	lead chan context.Context
}

func (b *turns) Lead(ctx context.Context, do func(context.Context)) {
	for {
		select {
		case lead := <-b.lead:
			do(lead)
		case <-ctx.Done():
			return
		}
	}
}

// Who has lost its turn sends nothing more; what it had under way is the next one's.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		memory := outbox.NewMemory(outbox.MemoryConfig{})
		boxes := []*turns{{memory, make(chan context.Context)}, {memory, make(chan context.Context)}}
		var stages []*stage
		service := &service{}
		for _, box := range boxes {
			s := stand(t, hook, service, box)
			s.box = memory
			stages = append(stages, s)
		}
		stages[0].put(t, "acme", 1)
		time.Sleep(time.Hour)
		is.Equal(len(service.sent()), 0) // nobody is to
		service.answers(func(message, int) reply { return reply{status: http.StatusOK, after: time.Second} })
		for i := range 10 {
			turn, over := context.WithCancel(t.Context())
			boxes[i%2].lead <- turn
			time.Sleep(gatherTime + time.Second/2)
			over()
			synctest.Wait()
			is.Equal(len(service.sent()), 1)
			stages[0].put(t, "acme", 1)
		}
		is.Equal(memory.Stats().Untaken, 11)
		boxes[1].lead <- t.Context()
		time.Sleep(time.Minute)
		got := service.sent()
		is.Equal(len(got[0].seqs), 11)
		is.True(slices.IsSorted(got[0].seqs))
		is.Equal(memory.Stats().Untaken, 0)
		one, _ := service.crowd()
		is.Equal(one, 1)
		is.Equal(stages[0].Stats().Answers[AnswerError], int64(0)) // nobody has failed
		at := time.Now()
		stages[0].end()
		is.Equal(time.Since(at), 0*time.Second) // who does not send waits for nobody
	})
}
