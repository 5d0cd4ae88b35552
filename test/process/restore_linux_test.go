package process

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
	"realtimehub/internal/testkit"
)

// A restore that is killed, here since its input does not go on, leaves a hub that runs without
// a history: it says what to do, and that can be done at once.
func TestRestoreIsKilled(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	home := t.TempDir()
	first, second := []string{"REALTIME_DATA=" + filepath.Join(home, "first")}, []string{"REALTIME_DATA=" + filepath.Join(home, "second")}
	hub := startProgram(t, first...)
	const events = 30
	for n := range events {
		hub.Accepted(t, "/v1/events", order(n))
	}
	hub.Changes(t, http.MethodPut, "/v1/tenants/acme/conversations/talk/members", `{"members":["user:ann"]}`)
	hub.Stop()
	save := exec.CommandContext(t.Context(), hubtest.Binary(t), "backup", "-")
	save.Env = append(append(os.Environ(), testkit.QuickEnd), first...)
	var said bytes.Buffer
	save.Stderr = &said
	text, err := save.Output()
	is.NoErr(err)
	is.True(strings.HasPrefix(said.String(), "backup of -: ")) // and not in the backup

	hub = startProgram(t, second...)
	restore := func() (*exec.Cmd, *os.File) {
		cmd := exec.CommandContext(t.Context(), hubtest.Binary(t), "restore", "-")
		cmd.Env = append(append(os.Environ(), testkit.QuickEnd), second...)
		from, to, err := os.Pipe()
		is.NoErr(err)
		cmd.Stdin = from
		is.NoErr(cmd.Start())
		is.NoErr(from.Close())
		return cmd, to
	}
	cmd, to := restore()
	_, err = to.Write(text[:bytes.Index(text, []byte("realtime_journal/1"))]) // which is the history
	is.NoErr(err)
	testkit.Eventually(t, func() bool { return strings.Contains(hub.Logs.String(), "a backup is being restored") })
	is.NoErr(cmd.Process.Kill())
	cmd.Wait()
	to.Close()
	testkit.Eventually(t, func() bool { return strings.Contains(hub.Logs.String(), "a restore was cut off") })

	cmd, to = restore()
	_, err = to.Write(text)
	is.NoErr(err)
	to.Close()
	is.NoErr(cmd.Wait())
	testkit.Eventually(t, func() bool {
		status, _ := hub.Do(t, http.MethodGet, "/readyz", "")
		return status == http.StatusOK
	})
	history := hub.History(t, "acme", "", 0)
	is.Equal(len(history), events)
	for n := range history {
		is.Equal(string(history[n].Payload), fmt.Sprint(n))
	}
}
