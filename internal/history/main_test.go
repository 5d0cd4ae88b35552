package history

import (
	"testing"

	"realtimehub/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m, nil) }
