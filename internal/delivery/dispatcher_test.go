package delivery

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/event"
	"realtimehub/internal/sse"
)

// Where many have changed, and streams are told of a digest, a notice is made only for who watches, while
// the tenant is locked; where there is none all are made before that.
func TestFewNoticesAreMadeBesideADigest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		r := newRig(t)
		watcher := r.serve(t, Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: user("me"), Watch: []event.Profile{user("7")}})
		other := r.serve(t, Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: user("other")})
		said := func(typ string) *event.Event {
			return event.NewEphemeral("acme", typ, event.ToTenant(), time.Now(), 1)
		}
		var notices []Notice
		for i := range 100 {
			notices = append(notices, Notice{About: user(fmt.Sprint(i)), Event: said("a.notice")})
		}
		tell := func(w *word) (made int) {
			acme := r.Tenants.find("acme")
			acme.notifyLocked(w, false)
			acme.flush()
			for _, p := range w.parcels {
				if p != nil {
					made++
				}
			}
			return made
		}
		counts := func(s *servedHere) string {
			text := s.written()
			return fmt.Sprint(strings.Count(text, "event: a.notice"), " ", strings.Count(text, "event: a.digest"))
		}
		is.Equal(tell(wordOf(notices, said("a.digest"))), 1)
		is.Equal(counts(watcher), "1 0")
		is.Equal(counts(other), "0 1")

		w := wordOf(notices, nil)
		is.True(w.parcels[0] != nil && w.parcels[99] != nil)
		tell(w)
		is.Equal(counts(watcher), "1 0")
		is.Equal(counts(other), "100 0")
	})
}
