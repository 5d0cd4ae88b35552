package contracttest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/matryer/is"
)

const openapi = `
paths:
  /things/{id}:
    post:
      operationId: makeThing
      parameters:
        - {name: id, in: path, required: true, schema: {type: string, maxLength: 3}, example: one}
        - {name: n, in: query, schema: {type: integer, maximum: 9}}
        - {name: tag, in: query, schema: {type: array, maxItems: 1, items: {pattern: '^a'}}}
        - {name: kinds, in: query, explode: false, schema: {type: array, maxItems: 2}}
        - {name: X-Who, in: header, schema: {enum: [me]}}
      requestBody:
        required: true
        content:
          application/json: {schema: {$ref: '#/components/schemas/Thing'}, example: {a: 1}}
          application/x-ndjson: {schema: {type: string}, x-line-schema: {$ref: '#/components/schemas/Thing'}}
      responses:
        '200':
          description: Made.
          headers: {X-Made: {required: true, schema: {enum: ['yes']}}}
          content:
            application/json: {schema: {$ref: '#/components/schemas/Thing'}}
            application/x-ndjson: {x-line-schema: {type: object, properties: {line: {type: integer}}}}
            text/event-stream: {schema: {type: string}}
        '204': {description: Nothing to say.}
components:
  schemas:
    Thing: {type: object, required: [a], additionalProperties: false, properties: {a: {type: integer}}}
x-any-path:
  responses:
    '404': {content: {text/plain: {schema: {type: string}}}}
`

const asyncapi = `
components:
  x-socket:
    command: {payload: {type: object, required: [do], properties: {n: {type: integer}, do: {enum: [sing]}}}}
    answer: {payload: {type: object, required: [n], properties: {ok: {const: true}}, additionalProperties: {type: [integer, 'null', object]}}}
  messages:
    greeting: {headers: {required: [event, id], properties: {id: {pattern: '^[0-9]+$'}}}, payload: {type: object, required: [n]}}
    stored: {headers: {required: [id]}, payload: {properties: {type: {pattern: '^a'}}}}
    ephemeral: {headers: {additionalProperties: false, properties: {event: true}}, payload: true}
`

func load(t *testing.T) *Contract {
	t.Helper()
	c, err := Load([]byte(openapi), []byte(asyncapi))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Each fault is reported, and what is right is not.
func TestHandler(t *testing.T) {
	const good, lines, made = `{"a":1}`, "application/x-ndjson", "X-Made: yes"
	for name, tc := range map[string]struct {
		method, target, kind, body string
		status                     int
		headers, answer            string
		fault                      string
	}{
		"right":                     {"POST", "/things/one?n=9&tag=ab&kinds=x,y", "application/json", good, 200, made + "|Content-Type: application/json; charset=utf-8", good, ""},
		"an empty parameter":        {"POST", "/things/one?n=&tag=", "application/json", good, 204, "", "", ""},
		"refused":                   {"POST", "/things/three", "application/json", "{", 404, "Content-Type: text/plain", "no", ""},
		"another status":            {"POST", "/things/one", "application/json", good, 201, "", "", "the status is not documented"},
		"another path":              {"POST", "/thing", "application/json", good, 200, "", "", "the status is not documented"},
		"another method":            {"GET", "/things/one", "", "", 200, "", "", "the status is not documented"},
		"no such header":            {"POST", "/things/one", "application/json", good, 200, "Content-Type: application/json", good, "X-Made is missing"},
		"another header":            {"POST", "/things/one", "application/json", good, 200, "X-Made: no|Content-Type: application/json", good, "X-Made"},
		"another type":              {"POST", "/things/one", "application/json", good, 200, made + "|Content-Type: text/html", good, `"text/html" is not documented`},
		"another answer":            {"POST", "/things/one", "application/json", good, 200, made + "|Content-Type: application/json", `{"a":1,"b":2}`, "additional properties 'b'"},
		"no JSON":                   {"POST", "/things/one", "application/json", good, 200, made + "|Content-Type: application/json", `{"a":1`, "EOF"},
		"more than nothing":         {"POST", "/things/one", "application/json", good, 204, "", "x", "should have no body"},
		"a bad path is taken":       {"POST", "/things/three", "application/json", good, 204, "", "", "path id"},
		"a bad number is taken":     {"POST", "/things/one?n=10", "application/json", good, 204, "", "", "query n"},
		"no number is taken":        {"POST", "/things/one?n=x", "application/json", good, 204, "", "", "query n"},
		"a bad item is taken":       {"POST", "/things/one?tag=b", "application/json", good, 204, "", "", "query tag"},
		"too many are taken":        {"POST", "/things/one?tag=a&tag=a", "application/json", good, 204, "", "", "query tag"},
		"too many in one are taken": {"POST", "/things/one?kinds=x,y,z", "application/json", good, 204, "", "", "query kinds"},
		"a bad header is taken":     {"POST", "/things/one", "application/json|X-Who: you", good, 204, "", "", "header X-Who"},
		"a bad body is taken":       {"POST", "/things/one", "application/json", `{"a":"1"}`, 204, "", "", "want integer"},
		"another body is taken":     {"POST", "/things/one", "text/plain", good, 204, "", "", `"text/plain" is not documented`},
		"lines":                     {"POST", "/things/one", lines, good + "\n\n{}\n" + good, 200, made + "|Content-Type: " + lines, `{"line":3,"code":"x"}` + "\n" + `{"accepted":2,"refused":1}` + "\n", ""},
		"a bad line is taken":       {"POST", "/things/one", lines, good + "\n{}", 200, made + "|Content-Type: " + lines, `{"accepted":2,"refused":0}` + "\n", "line 2"},
		"a bad line comes too late": {"POST", "/things/one", lines, good + "\n{}", 200, made + "|Content-Type: " + lines, `{"accepted":1,"refused":0}` + "\n", ""},
		"a line of another kind":    {"POST", "/things/one", lines, good, 200, made + "|Content-Type: " + lines, `{"line":"x"}` + "\n", "line 1"},
		"half a line":               {"POST", "/things/one", lines, good, 200, made + "|Content-Type: " + lines, `{"line":1}`, "has no end"},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			var got []string
			c := load(t)
			handler := c.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				for header := range strings.SplitSeq(tc.headers, "|") {
					if name, value, ok := strings.Cut(header, ": "); ok {
						w.Header().Set(name, value)
					}
				}
				w.WriteHeader(tc.status)
				io.WriteString(w, tc.answer)
			}), func(err error) { got = append(got, err.Error()) })
			r := httptest.NewRequest(tc.method, tc.target, strings.NewReader(tc.body))
			kind, who, more := strings.Cut(tc.kind, "|X-Who: ")
			r.Header.Set("Content-Type", kind)
			if more {
				r.Header.Set("X-Who", who)
			}
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			is.Equal(w.Body.String(), tc.answer) // nothing is changed
			if tc.fault == "" {
				is.Equal(got, nil)
				return
			}
			is.Equal(len(got), 1)
			is.True(strings.Contains(got[0], tc.fault)) // the reason is named
			if strings.HasPrefix(tc.kind, lines) && !strings.HasPrefix(tc.answer, `{"line"`) {
				return // the client's side does not look at the lines it sends
			}
			client := c.Transport(roundTrip(func(r *http.Request) *http.Response {
				res := w.Result()
				res.Body = io.NopCloser(strings.NewReader(tc.answer))
				return res
			}), func(err error) { got = append(got, err.Error()) })
			r, err := http.NewRequest(tc.method, tc.target, strings.NewReader(tc.body))
			is.NoErr(err)
			r.Header = http.Header{"Content-Type": {kind}, "X-Who": {who}}
			res, err := client.RoundTrip(r)
			is.NoErr(err)
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
			is.Equal(len(got), 2)
			is.Equal(got[1], got[0]) // the client's side says the same
			is.True(strings.Contains(got[0], tc.method+" "+tc.target))
		})
	}
}

type roundTrip func(*http.Request) *http.Response

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r), nil }

// A request without a body has none, and is not made to look otherwise.
func TestNoBody(t *testing.T) {
	is := is.New(t)
	server := httptest.NewServer(load(t).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body != http.NoBody {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}), func(error) {}))
	defer server.Close()
	res, err := server.Client().Get(server.URL + "/things/one")
	is.NoErr(err)
	res.Body.Close()
	is.Equal(res.StatusCode, http.StatusOK)
}

// A stream is not held up, and one whose connection was taken is looked at no further.
func TestStreams(t *testing.T) {
	is := is.New(t)
	c := load(t)
	faults := make(chan error, 2)
	server := httptest.NewServer(c.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("X-Made", "yes")
		rc := http.NewResponseController(w)
		if r.URL.RawQuery != "" {
			conn, _, err := rc.Hijack()
			if err == nil {
				io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: x\n\n")
				conn.Close()
			}
			return
		}
		io.WriteString(w, "data: x\n\n")
		rc.Flush()
		<-r.Context().Done()
	}), func(err error) { faults <- err }))
	defer server.Close()
	for _, target := range []string{"/things/one", "/things/one?n=1"} {
		res, err := http.Post(server.URL+target, "application/json", strings.NewReader(`{"a":1}`))
		is.NoErr(err)
		first := make([]byte, 9)
		_, err = io.ReadFull(res.Body, first)
		is.NoErr(err)
		is.Equal(string(first), "data: x\n\n")
		res.Body.Close()
	}
	http.DefaultClient.CloseIdleConnections()
	server.Close()
	is.Equal(len(faults), 0)
	is.True(c.Seen("POST /things/{id} 200 text/event-stream"))
	is.True(!c.Seen("POST /things/{id} 204"))
}

func TestEvent(t *testing.T) {
	for _, tc := range []struct{ name, id, data, fault string }{
		{"greeting", "1", `{"n":1}`, ""}, {"greeting", "", `{"n":1}`, "id"}, {"greeting", "x", `{"n":1}`, "pattern"}, {"greeting", "1", `{}`, "'n'"},
		{"greeting", "1", `{"n":1,"cursor":"2"}`, "the cursor 2"}, {"greeting", "1", `{"n"`, "EOF"},
		{"a.b", "1", `{"type":"a.b"}`, ""}, {"message", "1", `{"type":"a.b"}`, ""}, {"a.b", "1", `{"type":"a.c"}`, "says a.c"},
		{"a.b", "", `{"type":"a.b"}`, "id"}, {"b.b", "1", `{"type":"b.b"}`, "pattern"},
		{"b.b", "", `{"type":"b.b","ephemeral":true}`, ""}, {"b.b", "1", `{"type":"b.b","ephemeral":true}`, "id"},
		{"b.b", "", `{"type":"b.b","target":{"kind":"connection"}}`, ""},
	} {
		t.Run(tc.name+tc.id+tc.data, func(t *testing.T) {
			is := is.New(t)
			err := load(t).Event(tc.name, tc.id, tc.data)
			is.Equal(err != nil, tc.fault != "")
			is.True(err == nil || strings.Contains(err.Error(), tc.fault))
		})
	}
}

func TestDocumented(t *testing.T) {
	is := is.New(t)
	c := load(t)
	is.Equal(c.Documented(), []string{
		"POST /things/{id} 200 application/json", "POST /things/{id} 200 application/x-ndjson", "POST /things/{id} 200 text/event-stream",
		"POST /things/{id} 204", "any path 404 text/plain", "ephemeral", "greeting", "stored",
	})
	method, target, body := c.Operations()[0].Sample("application/json", map[string]string{"n": "1"})
	is.Equal(method+" "+target+" "+body, `POST /things/one?n=1 {"a":1}`)
	_, err := Load([]byte(`paths: {/a: {get: {responses: {'200': {content: {application/json: {schema: {type: nothing}}}}}}}}`), nil)
	is.True(err != nil) // what is no schema
	_, err = Load([]byte(openapi), []byte(asyncapi+`
    another: {headers: true, payload: {type: object}, examples: [{headers: {}, payload: 1}]}`))
	is.True(err != nil) // an example that does not fit
	_, err = Load([]byte(strings.Replace(openapi, "properties: {line: {type: integer}}}}", "properties: {line: {type: integer}}}, example: '{\"line\":\"x\"}'}", 1)), []byte(asyncapi))
	is.True(err != nil)
}

// A command that is taken has to be documented, and so has each answer.
func TestCommand(t *testing.T) {
	c := load(t)
	for _, tc := range []struct {
		command, answer string
		ok              bool
	}{
		{`{"n":1,"do":"sing"}`, `{"n":1,"ok":true}`, true},
		{`{"do":"sing"}`, `{"n":null,"ok":true}`, true},
		{`{"n":1,"do":"dance"}`, `{"n":1,"problem":{}}`, true}, // refused
		{`no JSON`, `{"n":null,"problem":{}}`, true},
		{`{"n":1,"do":"dance"}`, `{"n":1,"ok":true}`, false},
		{`{"n":1}`, `{"n":1,"ok":true}`, false},
		{`no JSON`, `{"n":null,"ok":true}`, false},
		{`{"n":1,"do":"sing"}`, `{"n":2,"ok":true}`, false},
		{`{"do":"sing"}`, `{"n":2,"ok":true}`, false},
		{`{"n":1,"do":"sing"}`, `{"n":1,"ok":false}`, false},
		{`{"n":1,"do":"dance"}`, `{"problem":{}}`, false},
		{`{"n":1,"do":"dance"}`, `no JSON`, false},
	} {
		if err := c.Command(tc.command, tc.answer); (err == nil) != tc.ok {
			t.Errorf("%s, %s: %v", tc.command, tc.answer, err)
		}
	}
}

// A text is judged once by each schema, folded and not, and of all that was judged little is
// remembered.
func TestWhatWasJudgedIsRemembered(t *testing.T) {
	is := is.New(t)
	c := load(t)
	things, messages := c.operations["POST /things/{id}"].bodies["application/json"].schema, c.messages["greeting"].payload
	fold := func(body any) { body.(map[string]any)["a"] = json.Number("1") }
	for range 2 { // the second time from memory
		is.True(c.judged.fits(things, nil, []byte(`{"n":1}`)) != nil)
		is.NoErr(c.judged.fits(messages, nil, []byte(`{"n":1}`)))
		is.True(c.judged.fits(things, nil, []byte(`{"a":"x"}`)) != nil)
		is.NoErr(c.judged.fits(things, fold, []byte(`{"a":"x"}`)))
	}
	looks := 0
	for range 2 {
		c.judged.once(look{text: "same"}, func() error { looks++; return nil })
	}
	is.Equal(looks, 1)
	for i := range 2 * mostLooks {
		is.NoErr(c.judged.fits(nil, nil, fmt.Append(nil, i)))
	}
	is.True(len(c.judged.said) <= mostLooks)
	is.NoErr(c.judged.fits(nil, nil, fmt.Appendf(nil, "%q", strings.Repeat("x", mostText))))
	for l := range c.judged.said {
		is.True(len(l.text) <= mostText)
	}
}
