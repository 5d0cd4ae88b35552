package request

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/allowance"
	"realtimehub/internal/event"
	"realtimehub/internal/plan"
	"realtimehub/internal/problem"
	"realtimehub/internal/strictjson"
)

// post is a request with a JSON body of a length that it announces; -1: it announces none.
func post(body string, announced int64) *http.Request {
	r := httptest.NewRequest("POST", "/", io.NopCloser(strings.NewReader(body)))
	r.Header.Set("Content-Type", "application/json")
	r.ContentLength = announced
	return r
}

// memory is what a call may use of so many bytes for all calls.
func memory(t testing.TB, calls int64) *allowance.Call {
	call := allowance.New(plan.Memory{Calls: calls}).Body(event.TenantProfile{Tenant: "acme"})
	t.Cleanup(call.Close)
	return call
}

// A body is read up to its limit, whether it announces its length or not, and to its end.
func TestReadKeepsToItsLimit(t *testing.T) {
	const limit = 10_000
	short, full := strings.Repeat("x", 10), strings.Repeat("x", limit)
	for name, c := range map[string]struct {
		body      string
		announced int64
		err       error // of its type where it is one's own
	}{
		"empty":                {"", 0, nil},
		"short":                {short, 10, nil},
		"short, not announced": {short, -1, nil},
		"full":                 {full, limit, nil},
		"full, not announced":  {full, -1, nil},
		"over":                 {full + "x", limit + 1, &http.MaxBytesError{}},
		"over, not announced":  {full + "x", -1, &http.MaxBytesError{}},
		"broken off":           {short, 11, ErrBrokeOff},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			body, err := Limit(limit).Read(post(c.body, c.announced), memory(t, 1<<30))
			if _, tooLarge := c.err.(*http.MaxBytesError); tooLarge {
				over, ok := errors.AsType[*http.MaxBytesError](err)
				is.True(ok)
				is.Equal(over.Limit, int64(limit))
				return
			}
			is.Equal(err, c.err)
			if err == nil {
				is.Equal(string(body), c.body)
			}
		})
	}
}

// unread fails the test when it is read.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("the body is read")
	return 0, io.EOF
}

// What is refused for its head is refused before any of its body is read.
func TestReadRefusesByTheHead(t *testing.T) {
	for name, c := range map[string]struct {
		header, value string
		length        int64
		err           error
	}{
		"compressed":    {"Content-Encoding", "gzip", 10, errEncoding},
		"another type":  {"Content-Type", "text/plain", 10, errMediaType},
		"no type":       {"Content-Type", "", 10, errMediaType},
		"another set":   {"Content-Type", "application/json; charset=latin1", 10, errMediaType},
		"over its size": {"Content-Encoding", "identity", int64(Small) + 1, nil},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			r := httptest.NewRequest("POST", "/", unread{t})
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set(c.header, c.value)
			r.ContentLength = c.length
			_, err := Small.Read(r, memory(t, 1<<30))
			is.True(err != nil)
			if c.err != nil {
				is.Equal(err, c.err)
			}
		})
	}
	is := is.New(t)
	r := post(`{}`, 2)
	r.Header.Set("Content-Type", `Application/JSON; charset="UTF-8"`)
	body, err := Small.Read(r, memory(t, 1<<30))
	is.NoErr(err)
	is.Equal(string(body), `{}`)
}

// Memory is taken as a body comes: what a client announces costs nothing, and one that has
// more than the call may use is refused.
func TestReadTakesMemoryAsTheBodyComes(t *testing.T) {
	is := is.New(t)
	_, err := Limit(0).Read(post("begun", 1<<40), memory(t, 1<<20))
	is.Equal(err, ErrBrokeOff)
	_, err = Limit(0).Read(post(strings.Repeat("x", 1<<20), 1<<20), memory(t, 1<<20))
	is.Equal(err, problem.ErrBodies)
}

// A body that is an object tells all that is wrong with its members; one that is none says so.
func TestObject(t *testing.T) {
	is := is.New(t)
	_, err := Small.Profiles(post(`{"profiles":["user:a","user:b"]}`, -1), memory(t, 1<<30))
	is.NoErr(err)
	for body, faults := range map[string]int{
		`{"profiles":["a b:"," :"],"more":1}`: 3,
		`{}`:                                  1,
		`{"profiles":[]`:                      1,
		`[]`:                                  1,
	} {
		_, err := Small.Profiles(post(body, -1), memory(t, 1<<30))
		is.Equal(len(problem.Fields(err)), faults)
	}
	members := 0
	err = Small.Object(post(`{"a":1,"b":2}`, -1), memory(t, 1<<30), func(*problem.Faults, string, strictjson.Value) { members++ })
	is.NoErr(err)
	is.Equal(members, 2)
}

// A query names as many profiles as may be asked about.
func TestProfilesOf(t *testing.T) {
	is := is.New(t)
	var faults problem.Faults
	is.Equal(ProfilesOf(&faults, url.Values{"profile": {"user:a", "", "b"}}), []event.Profile{{Type: "user", ID: "a"}, {Type: "user", ID: "b"}})
	is.NoErr(faults.Err())
	is.Equal(len(ProfilesOf(&faults, url.Values{"profile": slices.Repeat([]string{"b"}, event.MaxAskedProfiles+1)})), 0)
	is.Equal(len(problem.Fields(faults.Err())), 1)
}

// Work ends for a client that has reset its request, which HTTP/1.1 cannot.
func TestAbortIfReset(t *testing.T) {
	is := is.New(t)
	gone, cancel := context.WithCancel(t.Context())
	r := httptest.NewRequest("GET", "/", nil).WithContext(gone)
	aborts := func() (why any) {
		defer func() { why = recover() }()
		AbortIfReset(r)
		return nil
	}
	r.ProtoMajor = 2
	is.Equal(aborts(), nil)
	cancel()
	is.Equal(aborts(), http.ErrAbortHandler)
	r.ProtoMajor = 1
	is.Equal(aborts(), nil)
}

// A head may have so many lines, whatever their names; what it takes beyond the usual counts.
func TestBoundsOfAHead(t *testing.T) {
	is := is.New(t)
	r := httptest.NewRequest("GET", "/", nil)
	is.Equal(HeadBytes(r), int64(0))
	for range mostHeaders {
		r.Header.Add("X", "1")
	}
	is.True(!TooManyHeaders(r))
	r.Header.Add("Y", "1")
	is.True(TooManyHeaders(r))
	r.Header.Set("Z", strings.Repeat("z", 100_000))
	is.True(HeadBytes(r) > 90_000)
}

// A path that is served with other methods is told from one that is not served.
func TestNoRoute(t *testing.T) {
	is := is.New(t)
	mux := http.NewServeMux()
	for _, pattern := range []string{"GET /a", "DELETE /a", "/"} {
		mux.HandleFunc(pattern, func(http.ResponseWriter, *http.Request) {})
	}
	w := httptest.NewRecorder()
	err := NoRoute(mux, w, httptest.NewRequest("POST", "/a", nil))
	p, _ := errors.AsType[*problem.Problem](err)
	is.Equal(p.Status, http.StatusMethodNotAllowed)
	is.Equal(w.Header().Get("Allow"), "GET, HEAD, DELETE")
	is.Equal(NoRoute(mux, w, httptest.NewRequest("POST", "/b", nil)), ErrNothingHere)
}

func TestIsClean(t *testing.T) {
	is := is.New(t)
	for path, clean := range map[string]bool{"/": true, "//": false, "/a": true, "/a/": true, "//a": false, "/a/../b": false, "/a/./b": false, "/a%2F..": true} {
		u, err := url.Parse("http://hub" + path)
		is.NoErr(err)
		is.Equal(IsClean(u), clean) // path
	}
}

// What is large waits for its turn, as long as somebody waits for the answer; what is small
// never does.
func TestTurns(t *testing.T) {
	is := is.New(t)
	var ends []func()
	for range max(runtime.GOMAXPROCS(0)/2, 1) {
		over, err := BodyTurn(t.Context(), "acme", largeBody+1)
		is.NoErr(err)
		ends = append(ends, over)
	}
	for _, small := range []func() (func(), error){
		func() (func(), error) { return BodyTurn(t.Context(), "acme", largeBody) },
		func() (func(), error) { return ListTurn(t.Context(), "acme", largeRoom) },
	} {
		over, err := small()
		is.NoErr(err)
		over()
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := ListTurn(gone, "acme", largeRoom+1)
	is.Equal(err, ErrBrokeOff)
	for _, over := range ends {
		over()
	}
	over, err := ListTurn(t.Context(), "acme", largeRoom+1)
	is.NoErr(err)
	over()
}

// closes is a body that says whether it was closed.
type closes struct {
	io.Reader
	closed bool
}

func (c *closes) Close() error {
	c.closed = true
	return nil
}

// Only what HTTP/2 would keep is dropped, of requests whose body nobody reads.
func TestABodyThatNobodyReads(t *testing.T) {
	is := is.New(t)
	for _, c := range []struct {
		method string
		major  int
		drops  bool
	}{{"GET", 2, true}, {"HEAD", 2, true}, {"POST", 2, false}, {"GET", 1, false}} {
		body := &closes{Reader: strings.NewReader("x")}
		r := httptest.NewRequest(c.method, "/", body)
		r.ProtoMajor = c.major
		DropBody(r)
		is.Equal(body.closed, c.drops)
	}
}
