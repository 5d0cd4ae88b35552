package faults

import (
	"os/exec"
	"syscall"
	"testing"

	"github.com/matryer/is"
)

// A process that ends by itself is seen, also where it is begun again before anybody looks.
func TestAProcessThatFalls(t *testing.T) {
	is := is.New(t)
	var p process
	is.NoErr(p.start(exec.Command("false")))
	<-p.signal(syscall.SIGCONT)
	is.NoErr(p.start(exec.Command("sleep", "60")))
	is.Equal(p.falls(), 1)
	p.kill()
	is.Equal(p.falls(), 1) // as it was asked to
}
