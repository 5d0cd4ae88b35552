package access

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
	"realtimehub/internal/testkit"
)

// Whoever sends bad tokens waits, then is sent away; other networks notice nothing, nor
// does who was let in before from the same one, and a new good token gets in there too.
func TestBadTokensMakeTheirNetworkWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		var logs testkit.Buffer
		auth := newAuth(t, Config{Secret: hubtest.Secret, FailedRate: 10, Logger: slog.New(slog.NewTextHandler(&logs, nil))})
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
		is.True(after > proofPatience && after <= proofPatience+time.Second)
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
		time.Sleep(proofPatience)
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
		time.Sleep(2 * forgiveEvery)
		for range 10 {
			status, waited = at(here, badToken(t))
			is.Equal(status, 401)
			is.Equal(waited, time.Duration(0))
		}
		is.Equal(auth.proofs.places.Total(), int64(0))
		is.Equal(len(auth.proofs.suspects), 1)
		time.Sleep(2 * forgiveEvery)
		at(there, goodToken(t))
		is.Equal(len(auth.proofs.suspects), 0)
	})
}

// Ten thousand people who come at once from one address are no attack; a new token of
// each counts nothing.
func TestGoodTokensNeverCount(t *testing.T) {
	is := is.New(t)
	auth := newAuth(t, Config{Secret: hubtest.Secret, FailedRate: 1})
	for range 1000 {
		status, _ := proven(t, auth, asking(t.Context()), goodToken(t))
		is.Equal(status, 200)
	}
	is.Equal(len(auth.proofs.suspects), 0)
	pending, _ := proven(t, auth, asking(t.Context()), strings.TrimPrefix(hubtest.Bearer(t, "nbf", time.Now().Add(time.Minute).Unix()), "Bearer "))
	is.Equal(pending, 503)
	is.Equal(len(auth.proofs.suspects), 0) // it will be good
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
		"expired":           {strings.TrimPrefix(hubtest.Bearer(t, "exp", time.Now().Add(-time.Minute).Unix()), "Bearer "), false},
		"another algorithm": {hubtest.Signed(t, jwt.SigningMethodES256, key, hubtest.Claims()), false},
		"none":              {raw([]byte(`{"alg":"none"}`)) + "." + raw([]byte(`{}`)) + ".", false},
		"another secret":    {badToken(t), true},
		"changed":           {good[:len(good)-4] + "AAAA", true},
		"no tenant":         {strings.TrimPrefix(hubtest.Bearer(t, "tenant", nil), "Bearer "), true},
		"another audience":  {strings.TrimPrefix(hubtest.Bearer(t, "aud", "else"), "Bearer "), true},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			auth := newAuth(t, Config{Secret: hubtest.Secret, Audience: "hub", FailedRate: 1})
			status, _ := proven(t, auth, asking(t.Context()), tc.token)
			is.Equal(status, 401)
			is.Equal(len(auth.proofs.suspects) == 1, tc.count)
		})
	}
}

// network is one of many addresses.
func network(i int) string {
	return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}).String()
}

// A token that comes back does not wait for a flood, though its network finds no room among
// the suspects either.
func TestWhoComesBackHasALaneWithoutRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		p := newProofs(2, slog.New(slog.DiscardHandler))
		flood := func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			for i := range mostSuspects + 1 {
				p.changeLocked(lane{from: network(i)}, -10)
			}
		}
		come := func(token string) (after time.Duration) {
			proof, ok := p.begin(network(mostSuspects+1), token)
			is.True(ok)
			after = proof.enter(t.Context())
			proof.leave()
			proof.end(after == 0)
			return after
		}
		flood()
		after := come("honest")
		is.True(after > proofPatience)
		time.Sleep(after)
		flood()
		is.True(come("another") > proofPatience)
		begun := time.Now()
		is.Equal(come("honest"), time.Duration(0))
		is.Equal(time.Since(begun), time.Duration(0))
	})
}

// However many networks send bad tokens, so much is remembered; those that find no room
// are one, until there is.
func TestSuspectsAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		p := newProofs(2, slog.New(slog.DiscardHandler))
		fail := func(i int) (sentAway bool) {
			proof, ok := p.begin(network(i), fmt.Sprint(i, time.Now()))
			if !ok {
				return true
			}
			sentAway = proof.enter(t.Context()) > 0
			proof.leave()
			proof.end(false)
			return sentAway
		}
		for i := range mostSuspects {
			is.True(!fail(i))
		}
		for i := range 2 {
			is.True(!fail(mostSuspects + i))
		}
		begun := time.Now()
		is.True(!fail(mostSuspects + 3)) // the third of those without room
		is.Equal(time.Since(begun), 500*time.Millisecond)
		is.Equal(len(p.suspects), mostSuspects+1)

		time.Sleep(time.Second) // none owes anything any more
		is.True(!fail(mostSuspects + 4))
		is.Equal(len(p.suspects), 1) // it has found room

		for i := range 3 * mostGood {
			proof, _ := p.begin(network(0), fmt.Sprint("good ", i))
			proof.end(true)
		}
		for i := range 3 * mostAway {
			p.refused(&proof{token: uint64(i)}, time.Second)
		}
		is.True(len(p.good.now)+len(p.good.before) <= 2*mostGood)
		is.True(len(p.away.now)+len(p.away.before) <= 2*mostAway)
		is.Equal(p.places.Total(), int64(0))
	})
}

// As many tokens of one network as may be under way at once leave places to others.
func TestPlacesForTokens(t *testing.T) {
	is := is.New(t)
	p := newProofs(0, slog.New(slog.DiscardHandler))
	mine, theirs := "192.0.2.1", "192.0.2.2"
	held := 0
	for i := range 2 * proofPlaces {
		if _, ok := p.begin(mine, fmt.Sprint(i)); ok {
			held++
		}
	}
	is.Equal(held, proofPlaces/2)
	_, ok := p.begin(theirs, "another")
	is.True(ok)
}
