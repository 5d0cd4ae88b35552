package hubtest

import (
	"bytes"
	"strings"
	"sync"
	"testing"

	"realtimehub/internal/contracttest"
)

// unanswered are commands that were sent on a socket, whose answers come in order.
type unanswered struct {
	mu    sync.Mutex
	lines []string // guarded by mu
}

func (u *unanswered) add(text string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for line := range strings.SplitSeq(text, "\n") {
		if line = strings.TrimSpace(line); line != "" {
			u.lines = append(u.lines, line)
		}
	}
}

// next is the first of them that was answered. One that was taken has been only if it has a number.
func (u *unanswered) next(taken bool) (line string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for answered := false; !answered && len(u.lines) > 0; {
		line, u.lines = u.lines[0], u.lines[1:]
		answered = !taken || strings.Contains(line, `"n"`)
	}
	return line
}

// check holds the first of them and its answer against the contract; nil: that of all tests.
func (u *unanswered) check(t testing.TB, c *contracttest.Contract, answer []byte) {
	t.Helper()
	line := u.next(bytes.Contains(answer, []byte(`"ok"`)))
	if c == nil {
		var err error
		if c, err = Contract(); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Command(line, string(answer)); err != nil {
		t.Errorf("not in asyncapi.yaml: %v", err)
	}
}
