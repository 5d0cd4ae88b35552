package presence

import (
	"testing"
	"time"
	"unsafe"

	"github.com/matryer/is"

	"realtimehub/internal/event"
	"realtimehub/internal/sized"
)

// Of who has connections to other hubs only no more is kept than is needed, also after a visit
// here; and what is counted is given back.
func TestLittleIsKeptOfWhoIsElsewhere(t *testing.T) {
	inBubble(t, func(w *world, is *is.I) {
		alice := event.TenantProfile{Tenant: "acme", Profile: user("alice")}
		few := tenantBytes + profileBytes + sized.Text("acme") + sized.Text("user:alice")
		counted := func() int64 { return w.pools.State.Of("acme") }
		w.Came(alice, time.Now(), true)
		is.Equal(counted(), few)
		is.Equal(w.passes(10*time.Minute), "alice offline>online, alice online>away")
		w.Used(alice, time.Now())
		is.Equal(w.passes(time.Second), "alice away>online")
		is.Equal(counted(), few)
		c := w.comes("alice")
		is.Equal(counted(), few+moreBytes)
		w.Left(c, time.Now())
		is.Equal(counted(), few+moreBytes) // when that was
		w.Came(alice, time.Now(), true)
		is.Equal(counted(), few)
		w.Went(alice, time.Time{}, time.Now())
		is.Equal(w.passes(time.Minute), "alice online>offline")
		w.Came(alice, time.Now(), true) // who was remembered
		is.Equal(counted(), few)
		w.Went(alice, time.Time{}, time.Now())
		w.passes(25 * time.Hour)
		is.Equal(counted(), int64(0))
	})
}

// The latest activity is remembered when the connection has gone that was used last, and when
// all have.
func TestTheLatestActivityOfWhoIsElsewhere(t *testing.T) {
	inBubble(t, func(w *world, is *is.I) {
		alice := event.TenantProfile{Tenant: "acme", Profile: user("alice")}
		active := func() string { return *w.Of("acme", []event.Profile{alice.Profile})[0].LastActiveAt }
		early, late := time.Now(), time.Now().Add(time.Minute)
		w.Came(alice, late, true)
		w.passes(time.Minute)
		w.Went(alice, early, time.Now()) // another connection is left
		is.Equal(active(), event.FormatTime(late))
		is.Equal(w.passes(4*time.Minute+2*time.Second), "alice online>away") // as that says
		w.Came(alice, early, true)
		is.Equal(active(), event.FormatTime(late))
		w.Used(alice, early.Add(time.Second))
		is.Equal(active(), event.FormatTime(late))
		w.Went(alice, time.Time{}, time.Now())
		w.passes(time.Minute)
		is.Equal(w.status("alice"), Offline)
		is.Equal(active(), event.FormatTime(late))
	})
}

// Who has typed was active then, also when the connection has gone that was used later.
func TestTypingOfWhoIsElsewhere(t *testing.T) {
	inBubble(t, func(w *world, is *is.I) {
		alice := event.TenantProfile{Tenant: "acme", Profile: user("alice")}
		first := time.Now()
		w.Came(alice, first, true)
		is.Equal(w.passes(time.Minute), "alice offline>online")
		w.Spoke(alice)
		w.passes(time.Minute)
		w.Came(alice, time.Now(), true) // another connection
		w.Went(alice, first, time.Now())
		is.Equal(w.passes(4*time.Minute-time.Second), "")
		is.Equal(w.passes(2*time.Second), "alice online>away")
	})
}

// What is counted of a profile is what Go takes for it.
func TestWhatAProfileTakes(t *testing.T) {
	is := is.New(t)
	is.Equal(sized.Block(int(unsafe.Sizeof(profile{}))), int64(80))
	is.Equal(sized.Block(int(unsafe.Sizeof(more{}))), int64(moreBytes))
}
