package main

import (
	"strings"
	"sync/atomic"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/event"
	"realtimehub/internal/natstest"
	"realtimehub/internal/settings"
)

// Who went to another hub while this one was cut off is not told offline before the other
// hub has told of them, also where its first answer is lost.
func TestWhoWentElsewhereIsNotToldOffline(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	a, b, proxy := sleepers(t, func(_ *HubConfig, p *PresenceConfig) { p.Audience, p.Grace = settings.AudienceTenant, 1 })
	me, you := b.open(t, meQuery), b.open(t, "tenant=acme&profile=you")
	is.Equal(me.until(t, "presence.online").Type, "presence.online") // that you are there
	_, count := a.everybody(t, "")
	is.Equal(count, 2.0)

	proxy.Cut()
	eventually(t, func() bool { return !b.peers.Hears() })
	you.close()
	a.open(t, "tenant=acme&profile=you")
	var lost atomic.Bool
	proxy.Rule(func(m *natstest.Message) natstest.Verdict {
		return natstest.Verdict{Drop: m.FromServer && strings.HasPrefix(m.Subject, "_INBOX.") && len(m.Data) > 0 && m.Data[0] == 's' && lost.CompareAndSwap(false, true)}
	})
	proxy.Mend()
	eventually(t, func() bool { // it is known
		return b.Cluster.Count(&event.Event{TenantID: "acme", Target: event.ToTenant()}, nil) == 1
	})
	is.True(lost.Load())
	b.publish(t, "acme", markerType, `{"kind":"tenant"}`, "0")
	for event := me.next(t); event.Type != markerType; event = me.next(t) {
		is.True(event.Type != "presence.offline")
	}
}
