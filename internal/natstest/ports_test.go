package natstest

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/matryer/is"
)

// Two processes, which have only ports to share, are given none twice.
func TestFreePort(t *testing.T) {
	const another = "REALTIMEHUB_TEST_PORTS"
	is := is.New(t)
	var given []string
	for range 1000 {
		given = append(given, fmt.Sprint(FreePort(t)))
	}
	if os.Getenv(another) != "" {
		fmt.Println("ports:", strings.Join(given, " "))
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestFreePort$")
	cmd.Env = append(os.Environ(), another+"=1")
	out, err := cmd.CombinedOutput()
	is.NoErr(err)
	_, line, _ := strings.Cut(string(out), "ports: ")
	line, _, _ = strings.Cut(line, "\n")
	given = append(given, strings.Fields(line)...)
	is.Equal(len(given), 2000)
	seen := map[string]bool{}
	for _, port := range given {
		is.True(!seen[port])
		seen[port] = true
	}
}
