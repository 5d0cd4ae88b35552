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
		time.Sleep(1)
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
		time.Sleep(1)
		is.Equal(sizes(), []int{50})
		large := outbox.Draft{Type: outbox.TypeUndelivered, Data: json.RawMessage(`{"x":"` + strings.Repeat("x", batchBytes/4) + `"}`)}
		is.NoErr(s.box.Put(t.Context(), "acme", "", []outbox.Draft{large, large, large, large, large}))
		time.Sleep(gatherTime)
		is.Equal(sizes(), []int{3})
		time.Sleep(gatherTime)
		is.Equal(sizes(), []int{2})
	})
}

// What fails comes again as it was, at the page's times, while what came after it waits.
func TestRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		s := stand(t, hook, &service{answer: always(http.StatusInternalServerError)}, nil)
		s.put(t, "acme", 3)
		time.Sleep(time.Second)
		s.put(t, "acme", 3)
		time.Sleep(50 * time.Hour)
		got := s.service.sent()
		is.Equal(len(got), 9)
		for i, m := range got[1:] {
			is.Equal(m.id, got[0].id)
			is.Equal(m.body, got[0].body)
			is.True(checks(testSecret, m.id, m.timestamp, m.signature, m.body))
			is.Equal(m.timestamp, strconv.FormatInt(m.at.Unix(), 10)) // of the attempt, or its receiver would take it for a replay
			waited, about := m.at.Sub(got[i].at), []time.Duration{
				0, 5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 14 * time.Hour,
			}[i]
			is.True(waited >= about*9/10 && waited <= about*11/10)
		}
		s.service.answer = nil
		time.Sleep(22 * time.Hour)
		got = s.service.sent()
		is.Equal(len(got), 2)
		is.Equal(len(got[0].seqs), 3)
		is.Equal(got[1].seqs[0], got[0].seqs[2]+1)
		is.Equal(got[1].at.Sub(got[0].at), gatherTime)
		is.Equal(s.Stats().Repeated, int64(9))
		is.Equal(s.Stats().Answers[AnswerFailed], int64(9))
		is.True(s.says("the webhook was not taken") && s.says("the webhook is taken again"))
		is.True(!s.says("/hooks"))
	})
}

// An endpoint that was away for three days gets what is still kept, in order; for what is not,
// it is told apart from nothing, and pulls.
func TestAwayForThreeDays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		away := true
		refused := errors.New("connection refused")
		s := stand(t, hook, &service{answer: func(message, int) reply {
			if away {
				return reply{err: refused}
			}
			return reply{status: http.StatusOK}
		}}, nil)
		for range 4 * 24 * 2 { // every half hour, for four days
			s.put(t, "acme", 1)
			time.Sleep(30 * time.Minute)
			if s.service.at(72 * time.Hour) {
				away = false
			}
		}
		time.Sleep(2 * longestDelay) // the next attempt
		items, _ := s.kept(t, "acme")
		got := s.service.sent()
		var taken []message
		for _, m := range got {
			if m.at.Sub(got[0].at) > 72*time.Hour {
				taken = append(taken, m)
			}
		}
		all := pushed(t, "acme", taken)
		is.True(len(all) > 2*24)
		is.Equal(all[len(all)-len(items):], items) // what is pulled is what was sent
		is.Equal(int(s.Stats().Items), len(all))
		is.Equal(int(s.Stats().Lost), 4*24*2-len(all)) // each is either sent or told
		is.True(s.Stats().Lost > 0 && s.says("the service has to pull"))
		is.Equal(s.Stats().Answers[AnswerError], s.Stats().Repeated)
		is.Equal(s.box.Stats().Untaken, 0)
	})
}

// at says whether so much time has gone by since the first message.
func (s *service) at(d time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.got) > 0 && time.Since(s.got[0].at) > d
}

// 410 stops what is sent, and says so: to all, or to the tenant that has an endpoint of its own.
func TestGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		gone := func(m message, _ int) reply {
			if m.tenant == "acme" {
				return reply{status: http.StatusGone}
			}
			return reply{status: http.StatusOK}
		}
		for url, others := range map[string]int{hook: 0, hook + "/{tenant}": 1} {
			s := stand(t, url, &service{answer: gone}, nil)
			s.put(t, "acme", 1)
			time.Sleep(time.Second)
			for range 3 {
				s.put(t, "acme", 1)
			}
			s.put(t, "other", 1)
			time.Sleep(48 * time.Hour)
			count := map[string]int{}
			for _, m := range s.service.sent() {
				count[m.tenant]++
			}
			is.Equal(count["acme"], 1)
			is.Equal(count["other"], others)
			is.Equal(s.Stats().Stopped, int64(1))
			is.Equal(s.Stats().Answers[AnswerRefused], int64(1))
			is.True(s.says("level=ERROR") && s.says("410 Gone"))
			items, _ := s.kept(t, "acme")
			is.Equal(len(items), 4) // which a service can pull
		}
	})
}

// A service that wants to be left alone for a time is, and not for longer than a day.
func TestRetryAfter(t *testing.T) {
	for header, wait := range map[string]time.Duration{
		"90": 90 * time.Second, "0": time.Second, "99999999999": longestDelay, "Sat, 01 Jan 2000 00:10:00 GMT": 10*time.Minute - gatherTime,
	} {
		for _, status := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
			synctest.Test(t, func(t *testing.T) { // where it is midnight of that day
				is := is.New(t)
				s := stand(t, hook, &service{answer: func(_ message, nth int) reply {
					if nth == 1 {
						return always(status, "Retry-After", header)(message{}, 1)
					}
					return reply{status: http.StatusOK}
				}}, nil)
				s.put(t, "acme", 1)
				time.Sleep(gatherTime)
				s.put(t, "other", 1) // of the same endpoint
				time.Sleep(25 * time.Hour)
				got := s.service.sent()
				is.Equal(len(got), 3)
				is.Equal(got[1].at.Sub(got[0].at), wait)
				is.Equal(got[2].at.Sub(got[0].at), max(wait, gatherTime))
			})
		}
	}
}

// Tenants with endpoints of their own wait for their own.
func TestRetryAfterOfOneTenant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		s := stand(t, hook+"/{tenant}", &service{answer: func(m message, _ int) reply {
			if m.tenant == "acme" {
				return always(http.StatusTooManyRequests, "Retry-After", "3600")(m, 1)
			}
			return reply{status: http.StatusOK}
		}}, nil)
		s.put(t, "acme", 1)
		time.Sleep(gatherTime)
		s.put(t, "other", 1)
		time.Sleep(gatherTime)
		synctest.Wait()
		got := s.service.sent()
		is.Equal(len(got), 2)
		is.Equal(got[1].tenant, "other")
	})
}

func TestRetryAfterThatSaysNothing(t *testing.T) {
	is := is.New(t)
	for _, text := range []string{"", "soon", "-1", "1.5", "1 s"} {
		is.Equal(retryAfter(text, time.Now()), 0*time.Second)
	}
	is.Equal(retryAfter("Sat, 01 Jan 2000 00:10:00 GMT", time.Now()), time.Second) // long ago
}

// An answer has 15 s, and one that takes longer is none.
func TestASlowEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		s := stand(t, hook, &service{answer: func(_ message, nth int) reply {
			return reply{status: http.StatusOK, after: []time.Duration{0, time.Hour, answerTime - 1}[min(nth, 2)]}
		}}, nil)
		s.put(t, "acme", 1)
		time.Sleep(time.Hour)
		got := s.service.sent()
		is.Equal(len(got), 2)
		is.Equal(got[1].at.Sub(got[0].at), answerTime)
		is.Equal(s.Stats().Answers[AnswerTimeout], int64(1))
		is.Equal(s.Stats().Answers[AnswerTaken], int64(1))
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
		is.True(s.service.together <= places)
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
		is.True(s.service.together <= places)
		is.Equal(s.service.most, 1)
	})
}

// A redirect is not followed, wherever it leads.
func TestRedirects(t *testing.T) {
	for _, to := range []string{"http://169.254.169.254/latest/meta-data/", "https://api.example.com/elsewhere", "file:///etc/passwd"} {
		for _, status := range []int{http.StatusMovedPermanently, http.StatusFound, http.StatusTemporaryRedirect, http.StatusPermanentRedirect} {
			synctest.Test(t, func(t *testing.T) {
				is := is.New(t)
				s := stand(t, hook, &service{answer: always(status, "Location", to)}, nil)
				s.put(t, "acme", 1)
				time.Sleep(time.Second)
				for _, m := range s.service.sent() {
					is.Equal(m.url, hook)
				}
				is.Equal(s.Stats().Answers[AnswerRedirect], int64(2))
				is.Equal(s.box.Stats().Untaken, 1)
			})
		}
	}
}

// Whatever an endpoint does, what it has taken of a tenant is that tenant's order without gaps,
// of which one batch was under way at a time; and it is what a service would pull.
func TestOrderWhileHalfFails(t *testing.T) {
	for seed := range uint64(10) {
		synctest.Test(t, func(t *testing.T) {
			is := is.New(t)
			random := rand.New(rand.NewPCG(seed, 0))
			took := map[string][]uint64{}
			s := stand(t, hook, &service{answer: func(m message, nth int) reply {
				after := time.Duration(random.IntN(2000)) * time.Millisecond
				switch random.IntN(6) {
				case 0:
					return reply{status: http.StatusBadGateway, after: after}
				case 1:
					return reply{err: errors.New("connection reset"), after: after}
				case 2:
					return reply{status: http.StatusOK, after: time.Hour}
				}
				for _, seq := range m.seqs {
					if list := took[m.tenant]; len(list) == 0 || list[len(list)-1] < seq {
						took[m.tenant] = append(list, seq)
					}
				}
				return reply{status: http.StatusOK, after: after}
			}}, nil)
			for range 300 {
				s.put(t, fmt.Sprint("tenant", random.IntN(5)), 1+random.IntN(3))
				time.Sleep(time.Duration(random.IntN(300)) * time.Millisecond)
			}
			time.Sleep(24 * time.Hour)
			got := s.service.sent()
			for tenant, list := range took {
				items, seqs := s.kept(t, tenant)
				is.Equal(list, seqs)
				is.Equal(pushed(t, tenant, got), items)
			}
			is.Equal(s.service.most, 1)
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
		service.answer = func(m message, _ int) reply {
			return reply{status: http.StatusOK, after: time.Second}
		}
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
		is.Equal(service.most, 1)
		is.Equal(stages[0].Stats().Answers[AnswerError], int64(0)) // nobody has failed
		at := time.Now()
		stages[0].end()
		is.Equal(time.Since(at), 0*time.Second) // who does not send waits for nobody
	})
}
