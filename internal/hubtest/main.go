package hubtest

import (
	"testing"

	"realtimehub/internal/natstest"
	"realtimehub/internal/testkit"
)

// Main runs a package's tests, removes what they built, and fails a run that leaves
// goroutines behind. TestMain calls it.
func Main(m *testing.M) {
	testkit.Main(m, func() {
		natstest.Clean()
		clean()
	})
}
