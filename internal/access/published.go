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
	keysEvery     = 10 * time.Minute
	keysUnknown   = time.Minute // at most so often for tokens that no key fits
	keysTimeout   = 5 * time.Second
	keysRetry     = time.Second // after a fetch that failed, twice as long each time
	keysRetryMost = 30 * time.Second
)

// mostKeyBytes is what an answer with keys may have; that of a large provider has 10 KB.
const mostKeyBytes = 1 << 20

// mostUnknown is how many tokens without a key are remembered until a fetch has answered them.
const mostUnknown = 1000

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
	unknown  map[[sha256.Size]byte]int // tokens that no key fitted, and how many fetches had begun
}

// fetchKeys fetches the keys for the first time, and goes on until ctx ends.
func fetchKeys(ctx context.Context, from string, logger *slog.Logger) (*publishedKeys, error) {
	if _, err := url.ParseRequestURI(from); err != nil {
		return nil, err
	}
	client := &http.Client{Timeout: keysTimeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return keepKeys(ctx, logger, func(ctx context.Context) ([]jwkset.JWK, error) { return readKeys(ctx, client, from, logger) }), nil
}

// readKeys asks for the keys once. It follows no redirect, as nobody has said to trust where
// that leads.
func readKeys(ctx context.Context, client *http.Client, from string, logger *slog.Logger) ([]jwkset.JWK, error) {
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
	return parseKeys(body, logger)
}

// parseKeys reads a key set. A key that is of an unknown kind or not valid is left out (RFC
// 7517, section 5), and the log tells of one that is not valid.
func parseKeys(body []byte, logger *slog.Logger) ([]jwkset.JWK, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if json.Unmarshal(body, &set) != nil {
		return nil, errors.New("the answer is not a JSON key set")
	}
	var keys []jwkset.JWK
	var invalid []error
	for _, one := range set.Keys {
		key, err := jwkset.NewJWKFromRawJSON(one, jwkset.JWKMarshalOptions{Private: true}, jwkset.JWKValidateOptions{})
		switch {
		case errors.Is(err, jwkset.ErrUnsupportedKey):
		case err != nil:
			invalid = append(invalid, err)
		default:
			keys = append(keys, key)
		}
	}
	switch {
	case len(invalid) == 0:
	case len(keys) == 0:
		return nil, fmt.Errorf("no key is valid: %w", invalid[0])
	default:
		logger.Warn("jwks: keys that are not valid were left out", "keys", len(invalid), "err", invalid[0])
	}
	return keys, nil
}

func keepKeys(ctx context.Context, logger *slog.Logger, fetch func(context.Context) ([]jwkset.JWK, error)) *publishedKeys {
	k := &publishedKeys{
		fetch: fetch, logger: logger, sooner: make(chan struct{}, 1),
		over: make(chan struct{}), unknown: map[[sha256.Size]byte]int{},
	}
	k.update(ctx)
	go k.run(ctx)
	return k
}

func (p *publishedKeys) run(ctx context.Context) {
	for {
		p.mu.Lock()
		next := time.NewTimer(time.Until(p.next))
		p.mu.Unlock()
		select {
		case <-ctx.Done():
			next.Stop()
			p.mu.Lock()
			close(p.over) // nobody waits for what does not come
			p.mu.Unlock()
			return
		case <-p.sooner:
			next.Stop()
		case <-next.C:
			p.update(ctx)
		}
	}
}

// update fetches once.
func (p *publishedKeys) update(ctx context.Context) {
	p.mu.Lock()
	p.begun++
	number := p.begun
	p.mu.Unlock()
	keys, err := p.fetch(ctx)
	if err == nil && len(keys) == 0 {
		err = errors.New("the answer has no key") // it would make every good token a bad one
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	wait := keysEvery
	switch {
	case err == nil:
		if p.failures > 0 {
			p.logger.Info("jwks: the keys can be fetched again")
		}
		p.keys, p.good, p.failures = keys, number, 0
	case ctx.Err() == nil:
		if inURL, ok := errors.AsType[*url.Error](err); ok {
			err = inURL.Err // it repeats the URL, which may hold a secret
		}
		wait = min(keysRetry<<min(p.failures, 10), keysRetryMost)
		wait = wait/2 + rand.N(wait/2)
		p.failures++
		p.logger.Warn("jwks: the keys could not be fetched; those known before stay in use", "err", err, "retry", wait)
	}
	p.next = time.Now().Add(wait)
	close(p.over)
	p.over = make(chan struct{})
}

// of finds the keys of a token's kid, or all if it has none. open says that a key which was
// not fetched yet may prove the token.
func (p *publishedKeys) of(t *jwt.Token) (keys []jwkset.JWK, open bool) {
	switch t.Method.(type) {
	case *jwt.SigningMethodRSA, *jwt.SigningMethodRSAPSS, *jwt.SigningMethodECDSA, *jwt.SigningMethodEd25519:
	default: // none of a public key
		return nil, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch kid := t.Header["kid"].(type) {
	case nil:
		return p.keys, true
	case string:
		for _, key := range p.keys {
			if key.Marshal().KID == kid {
				keys = append(keys, key)
			}
		}
		return keys, len(keys) == 0 && len(kid) <= 256
	}
	return nil, false
}

// renew has the keys fetched again for a token that no key fits, if that is allowed now: over
// is closed when it is done. Otherwise over is nil. came is an argument of judged.
func (p *publishedKeys) renew(token string) (came int, over <-chan struct{}) {
	id := sha256.Sum256([]byte(token))
	p.mu.Lock()
	defer p.mu.Unlock()
	came, there := p.unknown[id]
	if !there {
		if len(p.unknown) >= mostUnknown {
			clear(p.unknown)
		}
		came = p.begun
		p.unknown[id] = came
	}
	p.hastenLocked()
	if p.next.After(time.Now()) {
		return came, nil
	}
	return came, p.over
}

// hastenLocked has the next fetch begin as soon as one may for a token.
func (p *publishedKeys) hastenLocked() {
	now, due := time.Now(), p.asked.Add(keysUnknown)
	if p.failures > 0 || !p.next.After(now) || !p.next.After(due) {
		return
	}
	p.next = due
	if due.Before(now) {
		p.next = now
	}
	p.asked = p.next
	select {
	case p.sooner <- struct{}{}:
	default:
	}
}

// judged says whether a fetch has begun and succeeded since a token came for the first time,
// so that the lack of its key is known. Otherwise it has the next one begin as soon as it may,
// and says how long that is.
func (p *publishedKeys) judged(came int) (after time.Duration, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.good > came {
		return 0, true
	}
	p.hastenLocked() // the one that was under way has put the next one off
	return max(time.Until(p.next), 0), false
}

// fetched says whether the keys were ever fetched.
func (p *publishedKeys) fetched() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.good > 0
}
