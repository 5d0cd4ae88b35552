package access

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
	"github.com/matryer/is"

	"realtimehub/internal/access/accesstest"
	"realtimehub/internal/hubtest"
)

// provider is an identity provider that tests change; nil fails.
type provider struct {
	mu sync.Mutex
	// Guarded by mu.
	keys  []jwkset.JWK
	times int
}

// asked is how often it was.
func (p *provider) asked() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.times
}

func (p *provider) set(keys []jwkset.JWK) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys = keys
}

func (p *provider) fetch(context.Context) ([]jwkset.JWK, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.times++
	if p.keys == nil {
		return nil, errors.New("away")
	}
	return p.keys, nil
}

// held is a fetch that is answered once gate lets it.
func (p *provider) held(gate <-chan struct{}) func(context.Context) ([]jwkset.JWK, error) {
	return func(ctx context.Context) ([]jwkset.JWK, error) {
		select {
		case <-gate:
		case <-ctx.Done():
		}
		return p.fetch(ctx)
	}
}

func (p *provider) publish(t *testing.T, kids map[string]*rsa.PrivateKey) {
	t.Helper()
	keys := []jwkset.JWK{}
	for kid, key := range kids {
		text, _ := json.Marshal(accesstest.JWK(&key.PublicKey, kid))
		jwk, err := jwkset.NewJWKFromRawJSON(text, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, jwk)
	}
	p.set(keys)
}

// A token is refused for good only once the provider was asked for its key and has
// none; how often it is asked does not depend on how many strangers come.
func TestUnknownKeysAreAskedFor(t *testing.T) {
	one, _ := rsa.GenerateKey(rand.Reader, 2048)
	two, _ := rsa.GenerateKey(rand.Reader, 2048)
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		auth, err := NewAuth(ctx, Config{APIKeys: []string{"acme=service-key-0001"}})
		is.NoErr(err)
		var p provider
		auth.tokens.published = keepKeys(ctx, slog.New(slog.DiscardHandler), p.fetch)
		mint := func(key *rsa.PrivateKey, header ...any) string {
			return hubtest.Signed(t, jwt.SigningMethodRS256, key, hubtest.Claims("exp", time.Now().Add(24*time.Hour).Unix()), header...)
		}
		status := func(token string) (int, time.Duration) {
			_, _, err := auth.token(asking(ctx), token)
			if refusal, ok := errors.AsType[*Refusal](err); ok {
				return refusal.Status, refusal.After
			}
			is.NoErr(err)
			return http.StatusOK, 0
		}
		expect := func(token string, want int) {
			t.Helper()
			if got, _ := status(token); got != want {
				t.Errorf("%v: %d, want %d", time.Now(), got, want)
			}
		}
		kidless, good, other := mint(one), mint(one, "kid", "one"), mint(two, "kid", "two")

		// Away from the start: asked for in seconds, more and more seldom, by nobody's doing.
		expect(good, 503)
		expect(kidless, 503)
		is.True(auth.Ready() != nil)
		time.Sleep(10 * time.Second)
		is.True(p.asked() >= 3 && p.asked() <= 6)
		for range 1000 {
			expect(other, 503)
		}
		before := p.asked()
		for range 600 / 30 {
			last := p.asked()
			time.Sleep(30 * time.Second)
			is.True(p.asked() > last)
		}
		is.True(p.asked()-before <= 600/15+1)
		p.publish(t, map[string]*rsa.PrivateKey{"one": one})
		_, after := status(good)
		is.True(after > 0 && after <= 30*time.Second)
		time.Sleep(after)
		synctest.Wait()
		expect(good, 200)
		expect(kidless, 200)
		is.True(auth.Ready() == nil)
		expect(other, 401) // it came before that fetch, which did not bring its key

		// Another that has not come yet has the keys fetched, once.
		time.Sleep(2 * time.Minute)
		before = p.asked()
		third := mint(two, "kid", "three")
		expect(third, 401)
		is.Equal(p.asked(), before+1)
		// The next one is to wait, and the keys are fetched for it when they may be.
		p.publish(t, map[string]*rsa.PrivateKey{"one": one, "two": two})
		fresh, alike := mint(two, "kid", "two"), mint(two)
		for range 100 {
			expect(fresh, 503)
			expect(alike, 503)
		}
		is.Equal(p.asked(), before+1)
		_, after = status(fresh)
		is.True(after > 0 && after <= keysUnknown)
		time.Sleep(after)
		synctest.Wait()
		is.Equal(p.asked(), before+2)
		expect(fresh, 200)
		expect(alike, 401) // without a kid it could be either's

		// What was good stays while the provider is away, and what is not known is not refused.
		p.set(nil)
		time.Sleep(20 * time.Minute)
		expect(good, 200)
		expect(mint(two, "kid", "four"), 503)
		is.True(auth.Ready() == nil)
		wrong := hubtest.Signed(t, jwt.SigningMethodRS256, one, hubtest.Claims(), "kid", "two")
		expect(wrong, 401) // its key is known

		// Strangers' tokens take no more than so much memory.
		for range mostUnknown + 10 {
			auth.tokens.published.renew(rand.Text())
		}
		is.True(len(auth.tokens.published.unknown) <= mostUnknown)
	})
}

// withKid is a token that names a key, which nobody has signed it with.
func withKid(kid string) string {
	raw := base64.RawURLEncoding.EncodeToString
	return raw([]byte(`{"alg":"RS256","kid":"`+kid+`"}`)) + "." + raw([]byte(`{"exp":9999999999,"jti":"`+rand.Text()+`"}`)) + ".AAAA"
}

// While a slow provider is waited for, tokens take no place from those that need not wait
// for it, and past so many none waits.
func TestNoPlaceIsHeldWhileKeysAreFetched(t *testing.T) {
	one, _ := rsa.GenerateKey(rand.Reader, 2048)
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		auth := newAuth(t, Config{Secret: hubtest.Secret, FailedRate: 10})
		var p provider
		p.publish(t, map[string]*rsa.PrivateKey{"one": one})
		gate := make(chan struct{}, 1)
		gate <- struct{}{}
		auth.tokens.published = keepKeys(ctx, slog.New(slog.DiscardHandler), p.held(gate))
		time.Sleep(2 * keysUnknown)
		answers := make(chan int, 2*proofPlaces)
		for i := range cap(answers) {
			token := withKid("other")
			go func() {
				status, _ := proven(t, auth, asking(ctx), token)
				answers <- status
			}()
			if i%100 == 0 {
				synctest.Wait()
			}
		}
		synctest.Wait()
		is.Equal(auth.proofs.places.Total(), int64(0))
		is.Equal(len(answers), cap(answers)-proofPlaces/2)
		begun := time.Now()
		status, _ := proven(t, auth, asking(ctx), goodToken(t))
		is.Equal(status, 200)
		is.Equal(time.Since(begun), time.Duration(0))

		p.publish(t, map[string]*rsa.PrivateKey{"one": one, "two": one})
		rotated := hubtest.Signed(t, jwt.SigningMethodRS256, one, hubtest.Claims("exp", time.Now().Add(24*time.Hour).Unix()), "kid", "two")
		honest := make(chan int)
		go func() {
			status, _ := proven(t, auth, from(ctx, "203.0.113.7:4000"), rotated)
			honest <- status
		}()
		synctest.Wait()
		gate <- struct{}{}
		is.Equal(<-honest, 200)
		synctest.Wait()
		said := map[int]int{}
		for range cap(answers) {
			said[<-answers]++
		}
		is.Equal(said, map[int]int{401: 1, 503: cap(answers) - 1}) // the first came before the keys were asked for
		is.Equal(auth.proofs.places.Total()+auth.proofs.apart.Total(), int64(0))
	})
}

// A fetch that was under way when a token came may have missed its key: the next one is soon.
func TestAFetchUnderWayJudgesNobody(t *testing.T) {
	one, _ := rsa.GenerateKey(rand.Reader, 2048)
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		auth := newAuth(t, Config{Secret: hubtest.Secret})
		var p provider
		p.publish(t, map[string]*rsa.PrivateKey{"one": one})
		gate := make(chan struct{}, 1)
		gate <- struct{}{}
		auth.tokens.published = keepKeys(ctx, slog.New(slog.DiscardHandler), p.held(gate))
		time.Sleep(2 * keysUnknown)

		first := make(chan int)
		go func() {
			status, _ := proven(t, auth, asking(ctx), withKid("nobody's"))
			first <- status
		}()
		synctest.Wait() // its fetch is under way
		rotated := hubtest.Signed(t, jwt.SigningMethodRS256, one, hubtest.Claims("exp", time.Now().Add(24*time.Hour).Unix()), "kid", "two")
		second := make(chan struct{})
		var status int
		var after time.Duration
		go func() {
			defer close(second)
			status, after = proven(t, auth, asking(ctx), rotated)
		}()
		synctest.Wait()
		gate <- struct{}{}
		is.Equal(<-first, 401)
		<-second
		is.Equal(status, 503)
		is.True(after > 0 && after <= keysUnknown)

		p.publish(t, map[string]*rsa.PrivateKey{"one": one, "two": one})
		gate <- struct{}{}
		time.Sleep(after)
		synctest.Wait()
		is.Equal(p.asked(), 3) // no oftener than that
		status, _ = proven(t, auth, asking(ctx), rotated)
		is.Equal(status, 200)
	})
}

// A token whose key the provider has not is a bad one, once that is known: until then it
// costs nobody anything, as the provider may have changed its keys.
func TestAKeyThatIsNotThereCounts(t *testing.T) {
	one, _ := rsa.GenerateKey(rand.Reader, 2048)
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		auth := newAuth(t, Config{Secret: hubtest.Secret, FailedRate: 1})
		var p provider
		p.publish(t, map[string]*rsa.PrivateKey{"one": one})
		auth.tokens.published = keepKeys(ctx, slog.New(slog.DiscardHandler), p.fetch)
		const here, there = "192.0.2.1:4000", "203.0.113.7:4000"
		expect := func(addr, token string, want int, wait time.Duration) {
			t.Helper()
			begun := time.Now()
			status, _ := proven(t, auth, from(ctx, addr), token)
			is.Equal(status, want)
			is.Equal(time.Since(begun), wait)
		}
		time.Sleep(2 * keysUnknown)
		expect(here, withKid("nobody's"), 401, 0) // the provider was asked
		is.Equal(len(auth.proofs.suspects), 1)
		expect(here, withKid("nobody's"), 503, time.Second) // its network's tokens wait
		expect(there, withKid("nobody's"), 503, 0)

		// Whoever comes with a new key too early for a fetch is not charged, however often.
		p.publish(t, map[string]*rsa.PrivateKey{"one": one, "two": one})
		rotated := hubtest.Signed(t, jwt.SigningMethodRS256, one, hubtest.Claims("exp", time.Now().Add(24*time.Hour).Unix()), "kid", "two")
		for range 10 {
			expect(there, rotated, 503, 0)
		}
		time.Sleep(2 * keysUnknown)
		expect(there, rotated, 200, 0)
		time.Sleep(2 * keysUnknown)
		auth.proofs.forgiveLocked(time.Now())
		is.Equal(len(auth.proofs.suspects), 0)
	})
}

// An answer without a key is a fetch that failed: the last good keys serve, and the
// provider is asked again in seconds.
func TestAnEmptyKeySetKeepsTheKeys(t *testing.T) {
	one, _ := rsa.GenerateKey(rand.Reader, 2048)
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		auth, err := NewAuth(ctx, Config{APIKeys: []string{"acme=service-key-0001"}})
		is.NoErr(err)
		var p provider
		p.publish(t, map[string]*rsa.PrivateKey{"one": one})
		auth.tokens.published = keepKeys(ctx, slog.New(slog.DiscardHandler), p.fetch)
		token := hubtest.Signed(t, jwt.SigningMethodRS256, one, hubtest.Claims("exp", time.Now().Add(24*time.Hour).Unix()), "kid", "one")
		_, _, err = auth.token(asking(ctx), token)
		is.NoErr(err)

		p.publish(t, nil)
		time.Sleep(keysEvery)
		synctest.Wait()
		before := p.asked()
		is.Equal(before, 2)
		_, _, err = auth.token(asking(ctx), token)
		is.NoErr(err)
		time.Sleep(2 * keysRetry)
		synctest.Wait()
		is.True(p.asked() > before) // soon, not ten minutes later
	})
}
