package inquiry

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/matryer/is"
)

// Whoever leaves something out, or gives too much, is told what, before any hub is asked.
func TestAQuestionSaysWhatItLacks(t *testing.T) {
	for words, says := range map[string]string{
		"why":                         "why: no event is named",
		"why 01a2":                    "why: nobody is named who should have got the event: realtimehub why 01a2 PROFILE",
		"why 01a2 user:42":            "why: no tenant is named: set REALTIME_TENANT",
		"why 01a2 user:42 user:7":     `why: it takes an event and a profile, and no "user:7"`,
		"outbox":                      "outbox: no tenant is named",
		"outbox -tenant acme user:42": `outbox: it takes no "user:42"`,
		"why -follow 01a2 user:42":    "why: flag provided but not defined: -follow",
		"why -after 1 01a2 user:42":   "why: flag provided but not defined: -after",
	} {
		is := is.New(t)
		args := strings.Fields(words)
		err := Command(t.Context(), args[0], args[1:], func(string) string { return "" }, io.Discard, io.Discard)
		is.True(err != nil && strings.HasPrefix(err.Error(), says)) // words
		is.True(err != nil && strings.HasSuffix(err.Error(), Usage))
	}
}

// Where nobody answers it is told who was asked, and what says so.
func TestAQuestionThatNobodyAnswersSaysWhoWasAsked(t *testing.T) {
	is := is.New(t)
	hub := httptest.NewServer(http.NotFoundHandler())
	hub.Close()
	environ := map[string]string{"REALTIME_URL": hub.URL, "REALTIME_TENANT": "acme"}
	err := Command(t.Context(), "outbox", nil, func(name string) string { return environ[name] }, io.Discard, io.Discard)
	is.True(err != nil && strings.HasPrefix(err.Error(), "no answer from "+hub.URL+", which REALTIME_URL sets: "))
	is.True(err != nil && strings.Contains(err.Error(), "refused"))
}

// What the hub refuses is told with its code and its reason.
func TestAQuestionThatIsRefusedSaysWhy(t *testing.T) {
	is := is.New(t)
	hub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		io.WriteString(w, `{"code":"EventNotFound","detail":"the history has no such event"}`)
	}))
	defer hub.Close()
	environ := map[string]string{"REALTIME_URL": hub.URL, "REALTIME_TENANT": "acme"}
	err := Command(t.Context(), "why", []string{"01a2", "user:42"}, func(name string) string { return environ[name] }, io.Discard, io.Discard)
	is.True(err != nil)
	is.Equal(err.Error(), "the hub answers 404 EventNotFound: the history has no such event")
}

// answers is a hub that answers one question after the other.
type answers []func(*http.Request) (*http.Response, error)

func (a *answers) RoundTrip(r *http.Request) (*http.Response, error) {
	next := (*a)[0]
	*a = (*a)[1:]
	return next(r)
}

// says is an answer to a question for what comes after a place.
func says(after string, status int, body string) func(*http.Request) (*http.Response, error) {
	return func(r *http.Request) (*http.Response, error) {
		if r.URL.Query().Get("after") != after {
			return nil, errors.New("it asked for another place")
		}
		w := httptest.NewRecorder()
		w.WriteHeader(status)
		w.WriteString(body)
		return w.Result(), nil
	}
}

// Who follows an outbox misses nothing of it where the hub is away for a while, is told of that once,
// and goes on until the hub refuses.
func TestFollowingGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		away := func(*http.Request) (*http.Response, error) { return nil, errors.New("connection refused") }
		hub := &answers{
			away, away,
			says("0", 200, `{"items":[{"seq":1}],"next":1}`),
			says("1", 200, `{"items":[{"seq":2`), // the hub is killed
			says("1", 503, `{"code":"Overloaded"}`), says("1", 429, `{}`),
			says("1", 200, `{"items":[{"seq":2}],"next":2}`), says("2", 200, `{"items":[],"next":2}`),
			says("2", 401, `{"code":"Unauthenticated","detail":"the token has expired"}`),
		}
		a := &asker{base: "http://hub.example", tenant: "acme", client: &http.Client{Transport: hub}}
		var out, complaints strings.Builder
		err := a.outbox(t.Context(), 0, true, &out, &complaints)
		is.Equal(err.Error(), "the hub answers 401 Unauthenticated: the token has expired")
		is.Equal(out.String(), `{"seq":1}`+"\n"+`{"seq":2}`+"\n")
		is.Equal(strings.Count(complaints.String(), "\n"), 2)
		is.True(strings.HasPrefix(complaints.String(), "realtimehub: outbox: asking again after 0: no answer from http://hub.example"))
	})
}
