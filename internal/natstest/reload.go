package natstest

import (
	"testing"

	"github.com/nats-io/nats-server/v2/server"
)

// Reload has server i take changed settings while it runs, as SIGHUP does.
func (b *Broker) Reload(t testing.TB, i int, change func(*server.Options)) {
	t.Helper()
	change(b.options[i])
	if err := b.Servers[i].ReloadOptions(b.options[i].Clone()); err != nil {
		t.Fatal(err)
	}
}
