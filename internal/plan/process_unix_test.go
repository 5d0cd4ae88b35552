//go:build darwin || freebsd || linux || netbsd

package plan

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/matryer/is"
)

// The process's own limit is part of what is there (a child has it, set by a shell).
func TestAvailableIsWhatTheProcessMayHave(t *testing.T) {
	if os.Getenv("PLAN_CHILD") != "" {
		fmt.Print(Available())
		os.Exit(0)
	}
	is := is.New(t)
	cmd := exec.Command("sh", "-c", `ulimit -d 1048576 && exec "$0" -test.run '^TestAvailableIsWhat'`, os.Args[0])
	cmd.Env = append(os.Environ(), "PLAN_CHILD=1")
	out, err := cmd.Output()
	is.NoErr(err)
	is.Equal(string(out), fmt.Sprint(1<<30))
	is.True(Available() > 0)
}
