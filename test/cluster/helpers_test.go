package cluster

import (
	"fmt"
	"testing"

	"realtimehub/internal/hubtest"
	"realtimehub/internal/natstest"
	"realtimehub/internal/testkit"
)

func TestMain(m *testing.M) {
	testkit.MostlyWaits(4)
	hubtest.Main(m)
}

// Short names.
var (
	eventually   = testkit.Eventually
	eventJSON    = hubtest.EventJSON
	openEnvelope = hubtest.OpenEnvelope
)

const meQuery = "tenant=acme&profile=me"

// threeHubs share a cluster of three NATS servers, each connected to another.
func threeHubs(t testing.TB, settings ...string) []*hubtest.Program {
	t.Helper()
	return hubtest.StartCluster(t, 3, natstest.Start(t, 3), settings...)
}

// say publishes a number to the members of the conversation r.
func say(t testing.TB, hub *hubtest.Program, n int) {
	t.Helper()
	hub.Publish(t, "acme", "a.b", `{"kind":"conversation","conversationId":"r"}`, fmt.Sprint(n))
}
