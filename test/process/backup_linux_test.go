package process

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
	"realtimehub/internal/natstest"
	"realtimehub/internal/testkit"
)

// order is an event whose publisher has chosen its id.
func order(n int) string {
	return fmt.Sprintf(`{"id":"order-%d","tenantId":"acme","type":"a.b","target":{"kind":"tenant"},"payload":%d}`, n, n)
}

// runCommand runs one of the program's commands with a hub's settings.
func runCommand(t *testing.T, settings []string, args ...string) (says string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), hubtest.Binary(t), args...)
	cmd.Env = append(append(os.Environ(), testkit.QuickEnd), settings...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// From a hub's folder, while it runs, to another; to NATS servers, and from there to a folder
// again: the history is read back whole, members are there, ids are recognised. Who comes back
// with a cursor of before is told of a gap, and then hears what is new.
func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	home := t.TempDir()
	folder := func(name string) []string { return []string{"REALTIME_DATA=" + filepath.Join(home, name)} }
	servers := natstest.Start(t, 1)
	onServers := []string{"REALTIME_NATS_URL=" + servers.URL(0)}
	const events, room = 30, "/v1/tenants/acme/conversations/talk/members"

	hub := startProgram(t, folder("first")...)
	for n := range events {
		hub.Accepted(t, "/v1/events", order(n))
	}
	hub.Changes(t, http.MethodPut, room, `{"members":["user:ann"]}`)
	stream := hub.Open(t, "tenant=acme&profile=user:ann")
	before := []string{stream.Cursor}
	saved := func(settings []string, name string) string {
		t.Helper()
		file := filepath.Join(home, name)
		says, code := runCommand(t, settings, "backup", file)
		is.Equal(code, 0)
		is.True(strings.HasPrefix(says, "backup of "+file+": "))
		return file
	}
	file := saved(folder("first"), "file")
	hub.Accepted(t, "/v1/events", order(events)) // nobody knows of it any more
	is.Equal(hubtest.OpenEnvelope(t, stream.Next(t)).ID, fmt.Sprint("order-", events))
	before = append(before, hub.Open(t, "tenant=acme&profile=user:bob").Cursor)
	says, code := runCommand(t, folder("first"), "restore", file)
	is.Equal(code, 1)
	is.True(strings.Contains(says, "REALTIME_DATA") || strings.Contains(says, "events are kept there already"))
	is.Equal(len(hub.History(t, "acme", "", 0)), events+1)
	hub.Stop()

	for i, to := range []struct {
		settings []string
		again    bool // servers that run read restored ids when they are started again
	}{{folder("second"), false}, {onServers, true}, {folder("third"), false}} {
		says, code := runCommand(t, to.settings, "restore", file)
		is.Equal(code, 0)
		is.True(strings.HasPrefix(says, "restore of "+file+": "))
		if to.again {
			servers.Stop(0)
			servers.Restart(t, 0)
		}
		hub := startProgram(t, to.settings...)
		history := hub.History(t, "acme", "", 0)
		is.Equal(len(history), events+i) // and what was published at each stop
		for n := range events {
			is.Equal(string(history[n].Payload), fmt.Sprint(n))
			is.Equal(hub.Accepted(t, "/v1/events", order(n))["duplicate"], true)
		}
		status, answer := hub.Do(t, http.MethodGet, room, "")
		is.Equal(status, http.StatusOK)
		is.Equal(len(answer["members"].([]any)), 1)

		var back []*hubtest.Stream
		for _, cursor := range before {
			s := hub.Back(t, cursor, "tenant=acme&profile=user:ann")
			is.True(strings.Contains(s.Ready.Data, `"resume":"partial"`))
			gap := s.Next(t)
			is.Equal(gap.Type, "hub.gap")
			is.True(strings.Contains(gap.Data, `"unknown"`))
			back = append(back, s)
		}
		hub.Accepted(t, "/v1/events", order(1000+i))
		hub.Accepted(t, "/v1/events", `{"tenantId":"acme","type":"a.b","target":{"kind":"conversation","conversationId":"talk"},"payload":"talk","ephemeral":true}`)
		for _, s := range back {
			is.Equal(string(hubtest.OpenEnvelope(t, s.Next(t)).Payload), fmt.Sprint(1000+i))
			is.Equal(string(hubtest.OpenEnvelope(t, s.Next(t)).Payload), `"talk"`) // she is a member
			before = append(before, s.Cursor)
			s.Close()
		}
		file = saved(to.settings, fmt.Sprint("file-", i))
		hub.Stop()
	}
}

// A hub that was killed has lost nothing, and says so. Where the machine has stopped, what was
// acknowledged last may be lost: whoever resumes is told of a gap, however much came after it.
func TestFolderAfterAPowerCut(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	home := t.TempDir()
	settings := []string{"REALTIME_DATA=" + home}
	hub := startProgram(t, settings...)
	hub.Accepted(t, "/v1/events", order(0))
	before := hub.Open(t, "tenant=acme&profile=user:ann").Cursor
	hub.Kill()
	hub = startProgram(t, settings...)
	is.True(strings.Contains(hub.Back(t, before, "tenant=acme&profile=user:ann").Ready.Data, `"resume":"complete"`))
	hub.Kill()
	is.NoErr(os.WriteFile(filepath.Join(home, "open"), []byte("another start of the machine"), 0o600))
	hub = startProgram(t, settings...)
	for n := range 3 {
		hub.Accepted(t, "/v1/events", order(10+n))
	}
	s := hub.Back(t, before, "tenant=acme&profile=user:ann")
	is.True(strings.Contains(s.Ready.Data, `"resume":"partial"`))
	is.Equal(s.Next(t).Type, "hub.gap")
	is.Equal(len(hub.History(t, "acme", "", 0)), 4)
}
