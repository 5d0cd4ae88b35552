package inquiry

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

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
	} {
		is := is.New(t)
		args := strings.Fields(words)
		err := Command(t.Context(), args[0], args[1:], func(string) string { return "" }, io.Discard)
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
	err := Command(t.Context(), "outbox", nil, func(name string) string { return environ[name] }, io.Discard)
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
	err := Command(t.Context(), "why", []string{"01a2", "user:42"}, func(name string) string { return environ[name] }, io.Discard)
	is.True(err != nil)
	is.Equal(err.Error(), "the hub answers 404 EventNotFound: the history has no such event")
}
