package lobby

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"
)

// timed is an answer whose deadline is looked at.
type timed struct {
	http.ResponseWriter
	until time.Time
}

func (w *timed) SetWriteDeadline(t time.Time) error {
	w.until = t
	return nil
}

// Whoever is admitted has longer for an answer, and not for ever.
func TestAnAdmittedAnswerHasItsTimeToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		g := &guest{lobby: New(Config{Answer: time.Hour})}
		r := httptest.NewRequest("GET", "/", nil)
		r = r.WithContext(context.WithValue(r.Context(), guestKey{}, g))
		w := &timed{ResponseWriter: httptest.NewRecorder()}
		_, _, err := Greet(w, r)
		is.NoErr(err)
		is.Equal(w.until, time.Now().Add(answerTime))
		Admit(w, r)
		is.Equal(w.until, time.Now().Add(time.Hour))
	})
}
