package access

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
)

// When an identity provider's keys are fetched.
const (
	KeysEvery     = 10 * time.Minute
	KeysUnknown   = time.Minute // at most so often for tokens that no key fits
	keysTimeout   = 5 * time.Second
	KeysRetry     = time.Second // after a fetch that failed, twice as long each time
	keysRetryMost = 30 * time.Second
)

// mostKeyBytes is what an answer with keys may have; that of a large provider has 10 KB.
const mostKeyBytes = 1 << 20

// MostUnknown tokens are remembered, to be told that a fetch has brought no key for them.
const MostUnknown = 1000

// publishedKeys are what an identity provider publishes (a JWK Set: RFC 7517, section
// 5), fetched again and again. While that fails the last good ones serve.
type publishedKeys struct {
	// Static.
	fetch  func(context.Context) ([]jwkset.JWK, error)
	logger *slog.Logger
	sooner chan struct{} // next has come nearer

	mu sync.Mutex
	// Guarded by mu.
	keys     []jwkset.JWK
	begun    int       // fetches
	good     int       // the last one that was, counted by begun; 0: none
	failures int       // since then
	next     time.Time // when the next one begins, or the one under way began
	asked    time.Time // when the last one began that was for a token
	over     chan struct{}
	Unknown  map[[sha256.Size]byte]int // tokens that no key fitted, and how many fetches had begun
}

// fetchKeys fetches the keys for the first time, and goes on until ctx ends.
func fetchKeys(ctx context.Context, from string, logger *slog.Logger) (*publishedKeys, error) {
	if _, err := url.ParseRequestURI(from); err != nil {
		return nil, err
	}
	client := &http.Client{Timeout: keysTimeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return KeepKeys(ctx, logger, func(ctx context.Context) ([]jwkset.JWK, error) { return readKeys(ctx, client, from) }), nil
}

// readKeys asks for the keys once. Where a redirect leads nobody has said to trust. Keys
// of kinds that are not known are left out.
func readKeys(ctx context.Context, client *http.Client, from string) (keys []jwkset.JWK, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the answer is %d, not 200 (redirects are not followed)", res.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, mostKeyBytes+1))
	if err != nil {
		return nil, err
	}
	if len(body) > mostKeyBytes {
		return nil, fmt.Errorf("the answer has more than %d bytes", mostKeyBytes)
	}
	var set jwkset.JWKSMarshal
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, errors.New("the answer is no JSON of a key set")
	}
	for _, one := range set.Keys {
		key, err := jwkset.NewJWKFromMarshal(one, jwkset.JWKMarshalOptions{Private: true}, jwkset.JWKValidateOptions{})
		switch {
		case errors.Is(err, jwkset.ErrUnsupportedKey):
		case err != nil:
			return nil, fmt.Errorf("a key is not valid: %w", err)
		default:
			keys = append(keys, key)
		}
	}
	return keys, nil
}

func KeepKeys(ctx context.Context, logger *slog.Logger, fetch func(context.Context) ([]jwkset.JWK, error)) *publishedKeys {
	k := &publishedKeys{
		fetch: fetch, logger: logger, sooner: make(chan struct{}, 1),
		over: make(chan struct{}), Unknown: map[[sha256.Size]byte]int{},
	}
	k.Update(ctx)
	go k.run(ctx)
	return k
}

func (k *publishedKeys) run(ctx context.Context) {
	for {
		k.mu.Lock()
		next := time.NewTimer(time.Until(k.next))
		k.mu.Unlock()
		select {
		case <-ctx.Done():
			next.Stop()
			k.mu.Lock()
			close(k.over) // nobody waits for what does not come
			k.mu.Unlock()
			return
		case <-k.sooner:
			next.Stop()
		case <-next.C:
			k.Update(ctx)
		}
	}
}

// Update fetches once.
func (k *publishedKeys) Update(ctx context.Context) {
	k.mu.Lock()
	k.begun++
	number := k.begun
	k.mu.Unlock()
	keys, err := k.fetch(ctx)
	if err == nil && len(keys) == 0 {
		err = errors.New("no key in the answer") // it would make every good token a bad one
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	wait := KeysEvery
	switch {
	case err == nil:
		if k.failures > 0 {
			k.logger.Info("jwks: fetched again")
		}
		k.keys, k.good, k.failures = keys, number, 0
	case ctx.Err() == nil:
		if inURL, ok := errors.AsType[*url.Error](err); ok {
			err = inURL.Err // it repeats the URL, which may hold a secret
		}
		wait = min(KeysRetry<<min(k.failures, 10), keysRetryMost)
		wait = wait/2 + rand.N(wait)
		k.failures++
		k.logger.Warn("jwks: not fetched, the keys stay as they were", "err", err, "retry", wait)
	}
	k.next = time.Now().Add(wait)
	close(k.over)
	k.over = make(chan struct{})
}

// of are the keys of a token's kid, or all for a token without one, and whether it may
// be proven by one that was not fetched.
func (k *publishedKeys) of(t *jwt.Token) (keys []jwkset.JWK, open bool) {
	switch t.Method.(type) {
	case *jwt.SigningMethodRSA, *jwt.SigningMethodRSAPSS, *jwt.SigningMethodECDSA, *jwt.SigningMethodEd25519:
	default: // none of a public key
		return nil, false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	switch kid := t.Header["kid"].(type) {
	case nil:
		return k.keys, true
	case string:
		for _, key := range k.keys {
			if key.Marshal().KID == kid {
				return []jwkset.JWK{key}, false
			}
		}
		return nil, len(kid) <= 256
	}
	return nil, false
}

// Renew has the keys fetched for a token that none fits, if that may be now: then over is
// closed when they were, else it is nil. came is for Judged.
func (k *publishedKeys) Renew(token string) (came int, over <-chan struct{}) {
	id := sha256.Sum256([]byte(token))
	k.mu.Lock()
	defer k.mu.Unlock()
	came, there := k.Unknown[id]
	if !there {
		if len(k.Unknown) >= MostUnknown {
			clear(k.Unknown)
		}
		came = k.begun
		k.Unknown[id] = came
	}
	now := time.Now()
	if due := k.asked.Add(KeysUnknown); k.failures == 0 && k.next.After(now) && k.next.After(due) {
		k.next = due
		if due.Before(now) {
			k.next = now
		}
		k.asked = k.next
		select {
		case k.sooner <- struct{}{}:
		default:
		}
	}
	if k.next.After(now) {
		return came, nil
	}
	return came, k.over
}

// Judged says whether a fetch that began after a token came for the first time has
// brought no key for it; else how long it is until the next fetch.
func (k *publishedKeys) Judged(came int) (after time.Duration, known bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return max(time.Until(k.next), 0), k.good > came
}

// Fetched says whether they were, once at least.
func (k *publishedKeys) Fetched() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.good > 0
}
