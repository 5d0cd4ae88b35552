package webhook

import (
	"errors"
	"net/http"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"
)

// What fails comes again as it was, at the page's times, while what came after it waits.
func TestRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		s := stand(t, hook, &service{answer: always(http.StatusInternalServerError)}, nil)
		s.put(t, "acme", 3)
		time.Sleep(time.Second)
		s.put(t, "acme", 3)
		time.Sleep(40 * time.Hour)
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
		s.service.answers(nil)
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

// An endpoint that was away for three days gets what is still kept, in order. Of what is not it is
// told, and it pulls.
func TestAwayForThreeDays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		s := stand(t, hook, &service{answer: func(message, int) reply { return reply{err: errors.New("connection refused")} }}, nil)
		began, back := time.Now(), time.Time{}
		for range 4 * 24 * 2 { // every half hour, for four days
			s.put(t, "acme", 1)
			time.Sleep(30 * time.Minute)
			if back.IsZero() && time.Since(began) > 72*time.Hour {
				back = time.Now()
				s.service.answers(nil)
			}
		}
		time.Sleep(2 * longestDelay) // the next attempt
		items, _ := s.kept(t, "acme")
		var taken []message
		for _, m := range s.service.sent() {
			if m.at.After(back) {
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
