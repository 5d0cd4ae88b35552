package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/matryer/is"

	"realtimehub/internal/access"
)

// asking is a request with a context, from 192.0.2.1.
func asking(ctx context.Context) *http.Request {
	return httptest.NewRequest("GET", "/v1/presence", nil).WithContext(ctx)
}

// badToken is one whose signature is another secret's; no two are alike.
func badToken(t testing.TB) string {
	return signed(t, jwt.SigningMethodHS256, []byte(testSecret+"x"), claimsOf("exp", time.Now().Add(24*time.Hour).Unix(), "jti", rand.Text()))
}

// goodToken is a new one.
func goodToken(t testing.TB) string {
	return strings.TrimPrefix(bearer(t, "exp", time.Now().Add(24*time.Hour).Unix(), "jti", rand.Text()), "Bearer ")
}

// from is a request from somewhere.
func from(ctx context.Context, addr string) *http.Request {
	r := asking(ctx)
	r.RemoteAddr = addr
	return r
}

// proven is what a token is answered, and when it may come again.
func proven(t testing.TB, auth *access.Auth, r *http.Request, token string) (int, time.Duration) {
	t.Helper()
	_, _, err := auth.Token(r, token)
	if refusal, ok := errors.AsType[*access.Refusal](err); ok {
		return refusal.Status, refusal.After
	}
	if err != nil {
		t.Error(err)
	}
	return http.StatusOK, 0
}

// Whoever sends bad tokens waits, then is sent away; other networks notice nothing, nor
// does who was let in before from the same one, and a new good token gets in there too.
func TestBadTokensMakeTheirNetworkWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		var logs syncBuffer
		auth := newAuth(t, access.Config{Secret: testSecret, FailedRate: 10, Logger: slog.New(slog.NewTextHandler(&logs, nil))})
		const here, there = "[2001:db8:0:1::5]:4000", "[2001:db8:0:2::5]:4000"
		at := func(addr, token string) (int, time.Duration) {
			t.Helper()
			begun := time.Now()
			status, _ := proven(t, auth, from(t.Context(), addr), token)
			return status, time.Since(begun)
		}
		known := goodToken(t)
		status, waited := at(here, known)
		is.Equal(status, 200)
		is.Equal(waited, time.Duration(0))
		for range 10 { // a second's worth
			status, waited = at(here, badToken(t))
			is.Equal(status, 401)
			is.Equal(waited, time.Duration(0))
		}
		// One who sends the next when the last was answered gets no more than the rate.
		begun := time.Now()
		for i := range 20 {
			status, _ = at(fmt.Sprintf("[2001:db8:0:1::%x]:4000", i+1), badToken(t)) // all of one /64
			is.Equal(status, 401)
		}
		is.Equal(time.Since(begun).Round(time.Millisecond), 2*time.Second)

		status, waited = at(here, goodToken(t))
		is.Equal(status, 200)
		is.True(waited > 0 && waited <= 100*time.Millisecond)
		status, waited = at(here, known)
		is.Equal(status, 200)
		is.Equal(waited, time.Duration(0))
		status, waited = at(there, goodToken(t))
		is.Equal(status, 200)
		is.Equal(waited, time.Duration(0))

		// A flood fills the line; past it there is an answer at once, which says when.
		results := make(chan int, 1000)
		for range 1000 {
			bad := badToken(t)
			go func() {
				status, _ := proven(t, auth, from(t.Context(), here), bad)
				results <- status
			}()
		}
		synctest.Wait()
		fresh := goodToken(t)
		status, after := proven(t, auth, from(t.Context(), here), fresh)
		is.Equal(status, 429)
		is.True(after > access.ProofPatience && after <= access.ProofPatience+time.Second)
		status, waited = at(here, known)
		is.Equal(status, 200)
		is.Equal(waited, time.Duration(0)) // the office goes on
		status, waited = at(there, goodToken(t))
		is.Equal(status, 200)
		is.Equal(waited, time.Duration(0))
		// The flood goes on, and the new token comes back: too early, then when it was to.
		flood := func(lasts time.Duration) {
			for end := time.Now().Add(lasts); ; time.Sleep(10 * time.Millisecond) {
				for range 2 {
					bad := badToken(t)
					go proven(t, auth, from(t.Context(), here), bad)
				}
				synctest.Wait()
				if !time.Now().Before(end) {
					return
				}
			}
		}
		flood(time.Second)
		early, _ := proven(t, auth, from(t.Context(), here), fresh)
		is.Equal(early, 429)
		flood(after - time.Second)
		synctest.Wait()
		stranger, _ := proven(t, auth, from(t.Context(), here), goodToken(t))
		is.Equal(stranger, 429)
		status, waited = at(here, fresh)
		is.Equal(status, 200)
		is.Equal(waited, time.Duration(0))
		time.Sleep(access.ProofPatience)
		synctest.Wait()
		checked := 0
		for range 1000 {
			if <-results == 401 {
				checked++
			}
		}
		is.True(checked >= 20 && checked <= 22)                  // what two seconds allow
		is.True(strings.Count(logs.String(), "level=WARN") <= 4) // once a second
		is.True(strings.Contains(logs.String(), "2001:db8:0:1::"))
		is.True(strings.Contains(logs.String(), "REALTIME_FAILED_TOKEN_RATE"))

		// Who has stopped is forgotten.
		time.Sleep(2 * access.ForgiveEvery)
		for range 10 {
			status, waited = at(here, badToken(t))
			is.Equal(status, 401)
			is.Equal(waited, time.Duration(0))
		}
		is.Equal(auth.Proofs.Places.Total(), int64(0))
		is.Equal(len(auth.Proofs.Suspects), 1)
		time.Sleep(2 * access.ForgiveEvery)
		at(there, goodToken(t))
		is.Equal(len(auth.Proofs.Suspects), 0)
	})
}

// Ten thousand people who come at once from one address are no attack; a new token of
// each counts nothing.
func TestGoodTokensNeverCount(t *testing.T) {
	is := is.New(t)
	auth := newAuth(t, access.Config{Secret: testSecret, FailedRate: 1})
	for range 1000 {
		status, _ := proven(t, auth, asking(t.Context()), goodToken(t))
		is.Equal(status, 200)
	}
	is.Equal(len(auth.Proofs.Suspects), 0)
	pending, _ := proven(t, auth, asking(t.Context()), strings.TrimPrefix(bearer(t, "nbf", time.Now().Add(time.Minute).Unix()), "Bearer "))
	is.Equal(pending, 503)
	is.Equal(len(auth.Proofs.Suspects), 0) // it will be good
}

// What can be seen without a signature's check counts nothing and costs none, and of
// what was checked everything that is refused does.
func TestWhatCountsAsABadToken(t *testing.T) {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	good := goodToken(t)
	raw := base64.RawURLEncoding.EncodeToString
	for name, tc := range map[string]struct {
		token string
		count bool
	}{
		"no token":          {"x", false},
		"no JSON":           {"a.b.c", false},
		"expired":           {strings.TrimPrefix(bearer(t, "exp", time.Now().Add(-time.Minute).Unix()), "Bearer "), false},
		"another algorithm": {signed(t, jwt.SigningMethodES256, key, claimsOf()), false},
		"none":              {raw([]byte(`{"alg":"none"}`)) + "." + raw([]byte(`{}`)) + ".", false},
		"another secret":    {badToken(t), true},
		"changed":           {good[:len(good)-4] + "AAAA", true},
		"no tenant":         {strings.TrimPrefix(bearer(t, "tenant", nil), "Bearer "), true},
		"another audience":  {strings.TrimPrefix(bearer(t, "aud", "else"), "Bearer "), true},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			auth := newAuth(t, access.Config{Secret: testSecret, Audience: "hub", FailedRate: 1})
			status, _ := proven(t, auth, asking(t.Context()), tc.token)
			is.Equal(status, 401)
			is.Equal(len(auth.Proofs.Suspects) == 1, tc.count)
		})
	}
}

// What a client is told: 429 with Retry-After, a stream to come back; and what is counted.
func TestATokenThatHasToWait(t *testing.T) {
	alone(t, "its requests end before they begin")
	alone(t, "one hub proves a credential, without the others")
	is := is.New(t)
	auth := newAuth(t, access.Config{Secret: testSecret, APIKeys: []string{"acme=service-key-0001", "*=master-key-00001"}, FailedRate: 0.1})
	h := newTrustedHub(t, auth, access.RatesConfig{})
	is.Equal(ask(h.Handler, "GET", "/v1/presence", "", "Authorization", "Bearer "+badToken(t)).Code, 401)
	token := "Bearer " + goodToken(t)
	moves(t, h.Handler, map[string]float64{
		`auth_failures_total{reason="RateLimited"}`: 3, `streams_refused_total{reason="pending"}`: 1, `events_refused_total{code="RateLimited"}`: 1,
	}, func() {
		w := ask(h.Handler, "GET", "/v1/presence", "", "Authorization", token)
		is.Equal(w.Code, 429)
		is.Equal(codeOf(w), "RateLimited")
		is.True(slices.Contains([]string{"9", "10"}, w.Header().Get("Retry-After")))
		reason, retry := closingOf(t, ask(h.Handler, "GET", "/v1/stream", "", "Authorization", token))
		is.Equal(reason, "pending")
		is.True(retry >= 9*time.Second)
		is.Equal(ask(h.Handler, "POST", "/v1/tenants/acme/events", `{"type":"a.b","payload":1}`, "Authorization", token).Code, 429)
	}, "X-API-Key", "master-key-00001")
	// A service's key has nothing to wait for.
	is.Equal(ask(h.Handler, "POST", "/v1/tenants/acme/events", `{"type":"a.b","payload":1}`, "X-API-Key", "service-key-0001").Code, 202)
}

// However many networks send bad tokens, so much is remembered; those that find no room
// are one.
func TestSuspectsAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		p := access.NewProofs(2, slog.New(slog.DiscardHandler))
		network := func(i int) string {
			return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}).String()
		}
		fail := func(i int) (sentAway bool) {
			proof, ok := p.Begin(network(i), fmt.Sprint(i, time.Now()))
			if !ok {
				return true
			}
			sentAway = proof.Enter(t.Context()) > 0
			proof.Leave()
			proof.End(false)
			return sentAway
		}
		for i := range access.MostSuspects {
			is.True(!fail(i))
		}
		for i := range 2 {
			is.True(!fail(access.MostSuspects + i))
		}
		begun := time.Now()
		is.True(!fail(access.MostSuspects + 3)) // the third of those without room
		is.Equal(time.Since(begun), 500*time.Millisecond)
		is.Equal(len(p.Suspects), access.MostSuspects+1)

		for i := range 3 * access.MostGood {
			proof, _ := p.Begin(network(0), fmt.Sprint("good ", i))
			proof.End(true)
		}
		for i := range 3 * access.MostAway {
			p.Refused(&access.Proof{Token: uint64(i)}, time.Second)
		}
		is.True(len(p.Good.Now)+len(p.Good.Before) <= 2*access.MostGood)
		is.True(len(p.Away.Now)+len(p.Away.Before) <= 2*access.MostAway)
		is.Equal(p.Places.Total(), int64(0))
	})
}

// As many tokens of one network as may be under way at once leave places to others.
func TestPlacesForTokens(t *testing.T) {
	is := is.New(t)
	p := access.NewProofs(0, slog.New(slog.DiscardHandler))
	mine, theirs := "192.0.2.1", "192.0.2.2"
	held := 0
	for i := range 2 * access.ProofPlaces {
		if _, ok := p.Begin(mine, fmt.Sprint(i)); ok {
			held++
		}
	}
	is.Equal(held, access.ProofPlaces/2)
	_, ok := p.Begin(theirs, "another")
	is.True(ok)
}
