package recipes

import (
	"strconv"
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
	eventually  = testkit.Eventually
	lacks       = hubtest.Lacks
	needs       = hubtest.Needs
	bearer      = hubtest.Bearer
	blocksOf    = hubtest.Blocks
	shellBlocks = hubtest.ShellBlocks
	writeFiles  = hubtest.WriteFiles
)

func freePort(t testing.TB) string { return strconv.Itoa(natstest.FreePort(t)) }
