package outage

import (
	"maps"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
	"realtimehub/internal/natstest"
)

// Hubs are killed one after the other, and whoever is left tells of the connections of each.
func TestConnectionsOfKilledHubsAreTold(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	hubs := hubtest.StartCluster(t, 3, natstest.Start(t, 1), "REALTIME_WEBHOOK_TYPES=connection.opened,connection.closed")
	last := hubs[2]
	var ids []string
	kinds := map[string]string{} // of the last item about each connection
	told := func() map[string]string {
		all := map[string]string{}
		_, answer := last.Do(t, "GET", "/v1/tenants/acme/outbox", "")
		items, _ := answer["items"].([]any)
		for _, item := range items {
			item := item.(map[string]any)
			data := item["data"].(map[string]any)
			all[data["id"].(string)] = item["type"].(string)
			is.True(item["type"] == "connection.opened" || data["reason"] == "hubGone")
		}
		return all
	}
	for i, hub := range hubs {
		profile := string(rune('a' + i))
		ids = append(ids, hub.Open(t, "tenant=acme&profile="+profile).ConnectionID)
		kinds[ids[i]] = "connection.opened"
		eventually(t, func() bool { // it knows of that connection
			_, answer := last.Do(t, "GET", "/v1/tenants/acme/presence/"+profile, "")
			profiles, _ := answer["profiles"].([]any)
			return len(profiles) == 1 && profiles[0].(map[string]any)["status"] == "online"
		})
	}
	eventually(t, func() bool { return maps.Equal(told(), kinds) })
	for i, hub := range hubs[:2] {
		hub.Kill()
		kinds[ids[i]] = "connection.closed"
		eventually(t, func() bool { return maps.Equal(told(), kinds) })
	}
}
