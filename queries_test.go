package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/access"
)

// Each call that reads a query refuses one that it cannot read, and names the parameter: without it a
// filter would filter nothing, and a cursor resume nowhere.
func TestQueriesThatCannotBeRead(t *testing.T) {
	alone(t, "its requests end before they begin")
	h := newTestHub(t)
	c, err := contract()
	if err != nil {
		t.Fatal(err)
	}
	paths, tried := readDocument(t).Paths, map[string]bool{}
	for _, o := range c.Operations() {
		method, path, _ := strings.Cut(o.Name, " ")
		item := paths.Value(path)
		for _, p := range slices.Concat(item.Parameters, item.GetOperation(method).Parameters) {
			if p.Value.In != "query" || path == "/v1/socket" { // which tells it on the socket
				continue
			}
			kind := ""
			if bodies := o.Bodies(); len(bodies) > 0 {
				kind = bodies[len(bodies)-1] // of events as lines, which alone have a query
			}
			for _, value := range []string{"%zz", "a;b=c"} {
				_, target, body := o.Sample(kind, nil)
				if !strings.Contains(target, "?") {
					target += "?"
				}
				tried[o.Name] = true
				t.Run(o.Name+" "+p.Value.Name+"="+value, func(t *testing.T) {
					is := is.New(t)
					w := ask(h.Handler, method, target+"&"+p.Value.Name+"="+value, body, "Content-Type", kind)
					is.Equal(w.Code, 400)
					var told struct {
						Errors []struct{ Code, Field string }
					}
					is.NoErr(json.Unmarshal(w.Body.Bytes(), &told))
					is.True(slices.Contains(told.Errors, struct{ Code, Field string }{"InvalidField", p.Value.Name}))
				})
			}
		}
	}
	is := is.New(t)
	is.True(len(tried) > 15)
	w := ask(h.Handler, "GET", "/v1/poll?"+meQuery+strings.Repeat("&a", 10_000), "") // more than net/url reads
	is.Equal(w.Code, 400)
	is.True(strings.Contains(w.Body.String(), `"field":"query"`))
}

// A token in a query is the request's credential, also where it cannot be read: a cookie is not taken
// instead of it.
func TestATokenThatCannotBeRead(t *testing.T) {
	alone(t, "its requests end before they begin")
	is := is.New(t)
	h := newTrustedHub(t, newAuth(t, access.Config{Secret: testSecret}), access.RatesConfig{})
	token := strings.TrimPrefix(bearer(t), "Bearer ")
	for query, status := range map[string]int{"": 200, "access_token=" + token: 200, "access_token=" + token + "%zz": 401, "access%5ftoken=" + token + ";a": 401} {
		is.Equal(ask(h.Handler, "GET", "/v1/stream?"+query, "", "Cookie", tokenCookie+"="+token).Code, status) // query
	}
}
