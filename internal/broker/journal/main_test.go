package journal

import (
	"testing"

	"realtimehub/internal/natstest"
	"realtimehub/internal/testkit"
)

func TestMain(m *testing.M) {
	testkit.MostlyWaits(4)
	testkit.Main(m, natstest.Clean)
}

// await waits for a state, for a minute at most.
var await = testkit.Eventually
