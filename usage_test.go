package main

import (
	"bytes"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/settings"
	"realtimehub/internal/testkit"
)

// TestMainItself is the program, for tests that start it as a process.
func TestMainItself(t *testing.T) {
	if os.Getenv("RUN_MAIN") == "" {
		return // started by others only
	}
	os.Args = append(os.Args[:1], strings.Fields(os.Getenv("RUN_MAIN"))...)
	main()
	os.Exit(0)
}

func program(t *testing.T, args string, environ ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestMainItself$")
	cmd.Env = append(append(os.Environ(), "RUN_MAIN="+args, testkit.QuickEnd), environ...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func TestHelp(t *testing.T) {
	is := is.New(t)
	var help strings.Builder
	settings.PrintHelp(&help, readme)
	for _, flag := range []string{"-help", "--help", "-h", "help"} {
		stdout, stderr, code := program(t, flag, "REALTIME_JWT_SECRET=canary-secret")
		is.Equal(code, 0)
		is.Equal(stderr, "") // what was asked for goes where a pager reads
		is.Equal(stdout, help.String())
		is.True(strings.Contains(stdout, "REALTIME_JWT_SECRET") && !strings.Contains(stdout, "canary"))
	}
	stdout, stderr, code := program(t, "-nonsense")
	is.Equal(code, 2)
	is.Equal(stdout, "")
	is.True(strings.HasPrefix(stderr, "realtimehub: ") && strings.Contains(stderr, "-nonsense\n\nUsage:"))
}

func TestVersion(t *testing.T) {
	is := is.New(t)
	stdout, _, code := program(t, "-version")
	is.Equal(code, 0)
	is.True(strings.HasPrefix(stdout, "realtimehub ") && strings.Contains(stdout, runtime.Version()) && strings.HasSuffix(stdout, runtime.GOOS+"/"+runtime.GOARCH+"\n"))
	is.Equal(strings.Count(stdout, "\n"), 1)
}
