package access

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"realtimehub/internal/hubtest"
	"realtimehub/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m, nil) }

// newAuth proves credentials until the test ends.
func newAuth(t testing.TB, cfg Config) *Auth {
	t.Helper()
	a, err := NewAuth(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// asking is a request with a context, from 192.0.2.1.
func asking(ctx context.Context) *http.Request {
	return httptest.NewRequest("GET", "/v1/presence", nil).WithContext(ctx)
}

// badToken is one whose signature is another secret's; no two are alike.
func badToken(t testing.TB) string {
	return hubtest.Signed(t, jwt.SigningMethodHS256, []byte(hubtest.Secret+"x"), hubtest.Claims("exp", time.Now().Add(24*time.Hour).Unix(), "jti", rand.Text()))
}

// goodToken is a new one.
func goodToken(t testing.TB) string {
	return strings.TrimPrefix(hubtest.Bearer(t, "exp", time.Now().Add(24*time.Hour).Unix(), "jti", rand.Text()), "Bearer ")
}

// from is a request from somewhere.
func from(ctx context.Context, addr string) *http.Request {
	r := asking(ctx)
	r.RemoteAddr = addr
	return r
}

// proven is what a token is answered, and when it may come again.
func proven(t testing.TB, auth *Auth, r *http.Request, token string) (int, time.Duration) {
	t.Helper()
	_, _, err := auth.token(r, token)
	if refusal, ok := errors.AsType[*Refusal](err); ok {
		return refusal.Status, refusal.After
	}
	if err != nil {
		t.Error(err)
	}
	return http.StatusOK, 0
}
