package process

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
	"realtimehub/internal/testkit"
)

// Where a hub's disk is full, its readiness and a backup say so, and both go on once there is room.
func TestFullFolderSaysSo(t *testing.T) {
	is := is.New(t)
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=8m"); err != nil {
		hubtest.Lacks(t, "mounting needs root")
	}
	t.Cleanup(func() { syscall.Unmount(disk, syscall.MNT_DETACH) })
	settings := []string{"REALTIME_DATA=" + filepath.Join(disk, "data")}
	file := filepath.Join(t.TempDir(), "file")
	hub := startProgram(t, settings...)
	hub.Accepted(t, "/v1/events", order(0))
	ballast, err := os.Create(filepath.Join(disk, "ballast"))
	is.NoErr(err)
	for err == nil {
		_, err = ballast.Write(make([]byte, 4096))
	}
	ballast.Close()
	says := ""
	large := strings.Replace(order(1), `"payload":1`, `"payload":"`+strings.Repeat("x", 8<<10)+`"`, 1)
	testkit.Eventually(t, func() bool {
		hub.Do(t, http.MethodPost, "/v1/events", large) // which does not fit into what a file has of a page
		_, answer := hub.Do(t, http.MethodGet, "/readyz", "")
		says, _ = answer["detail"].(string)
		return strings.Contains(says, "the folder cannot be written")
	})
	said, code := runCommand(t, settings, "backup", file)
	is.Equal(code, 1)
	is.True(strings.Contains(said, "the hub that runs on the folder cannot write it now"))

	is.NoErr(os.Remove(ballast.Name()))
	testkit.Eventually(t, func() bool {
		status, _ := hub.Do(t, http.MethodGet, "/readyz", "")
		return status == http.StatusOK
	})
	_, code = runCommand(t, settings, "backup", file)
	is.Equal(code, 0)
	is.Equal(string(hub.History(t, "acme", "", 0)[0].Payload), "0")
	hub.Stop()
}
