package access

import (
	"context"
	"encoding/base64"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"realtimehub/internal/event"
	"realtimehub/internal/hubtest"
)

func FuzzAuthorization(f *testing.F) {
	auth, err := NewAuth(context.Background(), Config{Secret: hubtest.Secret, APIKeys: []string{"acme=service-key-0001"}})
	if err != nil {
		f.Fatal(err)
	}
	good := hubtest.Bearer(f, "exp", 99999999999)
	for _, seed := range []string{good, "Bearer service-key-0001", "bearer  " + good[7:], "Bearer a.b.c", "Bearer ..", "Basic x", "", good + ".", good[:len(good)-9] + "\r\n" + good[len(good)-9:], strings.Replace(good, ".", "..", 1)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		r := httptest.NewRequest("GET", "/v1/stream", nil)
		r.Header["Authorization"] = []string{header}
		caller, err := auth.Admit(r, ScopeSubscribe|ScopePublish, true)
		if (caller == nil) == (err == nil) {
			t.Fatalf("%v and %v", caller, err)
		}
		if err == nil {
			scheme, rest, _ := strings.Cut(header, " ")
			credential := strings.TrimLeft(rest, " ")
			if !strings.EqualFold(scheme, "Bearer") || credential != "service-key-0001" && credential != good[7:] {
				t.Fatalf("%q opens the door", header)
			}
		} else if _, ok := err.(*Refusal); !ok {
			t.Fatalf("%T", err)
		}
	})
}

// Claims that are signed and anything else: what is read of them is valid.
func FuzzClaims(f *testing.F) {
	auth, err := NewAuth(context.Background(), Config{Secret: hubtest.Secret})
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{`{"tenant":"acme","sub":"user:1","exp":9999999999}`, `{"tenant":"acme","sub":"user:1","exp":1e300,"scope":"admin"}`, `{"exp":-1}`, `[]`, `{"tenant":"acme","sub":"a:b:c","exp":9999999999,"scope":"x  publish"}`, `{"tenant":"acme","sub":"user:1","exp":9999999999,"nbf":"x"}`} {
		f.Add(seed)
	}
	b64 := base64.RawURLEncoding
	f.Fuzz(func(t *testing.T, claims string) {
		text := b64.EncodeToString([]byte(`{"alg":"HS256"}`)) + "." + b64.EncodeToString([]byte(claims))
		signature, err := jwt.SigningMethodHS256.Sign(text, []byte(hubtest.Secret))
		if err != nil {
			t.Fatal(err)
		}
		caller, scopes, err := auth.token(asking(t.Context()), text+"."+b64.EncodeToString(signature))
		if err != nil {
			return
		}
		is := caller.Holder(asking(t.Context()))
		back, err := event.ParseProfile(is.Profile.Type + ":" + is.Profile.ID)
		if err != nil || back != is.Profile || event.CheckTenant(is.Tenant) != nil || is.Tenant == "*" ||
			!caller.expires.After(time.Now()) || caller.expires.Unix() > maxExpiry || scopes > ScopeSubscribe|ScopePublish|ScopeAdmin {
			t.Fatalf("%+v of %q", caller, claims)
		}
	})
}
