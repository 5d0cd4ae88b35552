package browser

import (
	"testing"

	"realtimehub/internal/browsertest"
	"realtimehub/internal/hubtest"
	"realtimehub/internal/testkit"
)

func TestMain(m *testing.M) {
	testkit.MostlyWaits(4)
	hubtest.Main(m)
}

// Short names.
var (
	browser    = browsertest.Start
	tab        = browsertest.Tab
	do         = browsertest.Do
	becomes    = browsertest.Becomes
	awaited    = browsertest.Awaited
	bearer     = hubtest.Bearer
	needs      = hubtest.Needs
	eventually = testkit.Eventually
)

const testSecret = hubtest.Secret

// startHub starts the program, and is where it is.
func startHub(t *testing.T, settings ...string) (url string) {
	t.Helper()
	return hubtest.Start(t, settings...).URL
}
