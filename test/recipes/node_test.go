package recipes

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/hubtest"
)

// node runs a program in a folder, and is what it wrote.
func node(t testing.TB, dir string, command ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Dir = dir
	cmd.WaitDelay = time.Second
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(command, " "), err, out, complaints.String())
	}
	return string(out)
}

// packed is a folder in which Node finds the client as its npm package has it, which
// is what web/ is published as, and other packages beside it.
func packed(t *testing.T, others ...string) (dir string) {
	t.Helper()
	needs(t, "node")
	needs(t, "npm")
	is := is.New(t)
	dir = t.TempDir()
	var packages []struct {
		Filename string
		Files    []struct{ Path string }
	}
	is.NoErr(json.Unmarshal([]byte(node(t, dir, "npm", "pack", "--json", hubtest.Path("web"))), &packages))
	var files []string
	for _, file := range packages[0].Files {
		files = append(files, file.Path)
	}
	is.Equal(strings.Join(files, " "), "package.json realtime.d.ts realtime.js")

	installed(t, dir, append([]string{packages[0].Filename}, others...)...)
	return dir
}

// installed puts packages of npm into a folder.
func installed(t *testing.T, dir string, packages ...string) {
	t.Helper()
	is.New(t).NoErr(os.WriteFile(filepath.Join(dir, "package.json"), []byte(`{"private":true}`), 0o644))
	install := exec.CommandContext(t.Context(), "npm", append([]string{"install", "--no-audit", "--no-fund", "--prefer-offline"}, packages...)...)
	install.Dir = dir
	if out, err := install.CombinedOutput(); err != nil {
		lacks(t, "npm cannot install: "+string(out))
	}
}

// The client runs in Node, and the hub serves the stock client of npm.
func TestNode(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	dir := packed(t, "eventsource@4.0.0", "event-source-polyfill@1.0.31")
	hub := hubtest.Start(t, "REALTIME_PRESENCE_TICK=20ms", "REALTIME_RETRY=100ms")
	single := hubtest.Start(t, "REALTIME_RETRY=100ms", "REALTIME_MAX_CONNECTIONS_PER_PROFILE=1")
	programs, err := filepath.Glob("testdata/node/*.mjs")
	is.NoErr(err)
	for _, name := range programs { // to where their modules are found
		program, err := os.ReadFile(name)
		is.NoErr(err)
		is.NoErr(os.WriteFile(filepath.Join(dir, filepath.Base(name)), program, 0o644))
	}
	for _, name := range []string{"realtime.mjs", "eventsource.mjs", "polyfill.mjs", "stream.mjs", "tabs.mjs", "displaced.mjs", "refused.mjs", "acks.mjs", "transports.mjs"} {
		t.Run(name, func(t *testing.T) { node(t, dir, "node", name, hub.URL) })
	}
	for _, transport := range []string{"websocket", "poll"} {
		t.Run("realtime.mjs "+transport, func(t *testing.T) {
			node(t, dir, "node", "--experimental-websocket", "realtime.mjs", hub.URL, transport) // Node 20 has WebSocket by this name
		})
	}
	t.Run("roster.mjs", func(t *testing.T) { node(t, dir, "node", "roster.mjs", hubtest.Path("web")) })
	t.Run("devices.mjs", func(t *testing.T) { node(t, dir, "node", "devices.mjs", single.URL) })
}

// The types say what the client takes and gives, with a map of events and without, also
// in docs/client.md.
func TestRealtimeTypes(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	dir := packed(t, "typescript@5.9.3")
	program, err := os.ReadFile("testdata/node/types.ts")
	is.NoErr(err)
	is.NoErr(os.WriteFile(filepath.Join(dir, "types.ts"), program, 0o644))
	shown := "import { connect } from 'realtimehub';\ndeclare const token: () => string;\ndeclare function show(text: string): void;\ndeclare function hide(id: string): void;\n"
	for _, b := range blocksOf(t, "docs/client.md") {
		if b.Language == "ts" {
			shown += b.Text
		}
	}
	is.True(strings.Contains(shown, "connect<"))
	is.NoErr(os.WriteFile(filepath.Join(dir, "shown.ts"), []byte(shown), 0o644))
	node(t, dir, "node", "node_modules/typescript/bin/tsc", "--noEmit", "--strict", "--module", "nodenext", "--target", "es2022", "--lib", "es2022,dom", "types.ts", "shown.ts")
}
