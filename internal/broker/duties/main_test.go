package duties

import (
	"testing"

	"realtimehub/internal/natstest"
	"realtimehub/internal/testkit"
)

func TestMain(m *testing.M) {
	testkit.MostlyWaits(8)
	testkit.Main(m, natstest.Clean)
}
