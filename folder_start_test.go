package main

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/folder"
	"realtimehub/internal/hubtest"
	"realtimehub/internal/room/roomtest"
)

// A hub that cannot use its folder does not start: it names the setting, the folder and the
// reason.
func TestAStartWithoutItsFolderFails(t *testing.T) {
	for name, test := range map[string]struct {
		prepare  func(t *testing.T, dir string)
		settings string
		says     string
	}{
		"taken": {func(t *testing.T, dir string) {
			f, err := folder.Open(folder.Config{Dir: dir, Sync: time.Second, Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(f.Close)
		}, "", "another hub has this folder open: process "},
		"of another version": {writes("realtimehub.json", `{"version":2,"id":"x"}`), "", "the folder is of version 2, and this hub reads version 1"},
		"torn":               {writes("realtimehub.json", `{"vers`), "", "realtimehub.json cannot be read: it has 6 bytes, and is not what a hub writes"},
		"without its head":   {writes("jetstream/x", "y"), "", "this is no folder of a hub, or not all of one"},
		"of something else":  {writes("notes.txt", "y"), "", "this is no folder of a hub, or not all of one"},
		"of several": {writes("realtimehub.json", `{"version":1,"id":"x","peers":true}`), "",
			"the folder is part of what several hubs keep"},
		"of one, with peers": {writes("realtimehub.json", `{"version":1,"id":"x"}`),
			"REALTIME_PEERS=127.0.0.1:1,127.0.0.1:2,127.0.0.1:3 REALTIME_PEERS_ADDR=127.0.0.1:1", "the folder is of a hub alone"},
		"a file": {func(t *testing.T, dir string) {
			if err := os.WriteFile(dir, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "", "not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			dir := filepath.Join(t.TempDir(), "data")
			test.prepare(t, dir)
			environ := append(strings.Fields(test.settings), "REALTIME_ADDR=127.0.0.1:0", "REALTIME_DATA="+dir)
			err := run(t.Context(), environ, io.Discard, nil)
			is.True(err != nil)
			is.True(strings.HasPrefix(err.Error(), "REALTIME_DATA: "+dir+": "))
			is.True(strings.Contains(err.Error(), test.says))
			is.True(!strings.Contains(err.Error(), "\n"))
		})
	}
}

// writes has a folder that has a file.
func writes(name, text string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// A hub that has ended, or could not start for another reason, leaves its folder to the next.
func TestAnEndLeavesTheFolder(t *testing.T) {
	is := is.New(t)
	settings := []string{"REALTIME_DRAIN=0", "REALTIME_DATA=" + t.TempDir()}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	is.NoErr(err)
	defer taken.Close()
	for range 2 {
		is.True(run(t.Context(), append(settings, "REALTIME_ADDR="+taken.Addr().String()), io.Discard, nil) != nil)
		ctx, stop := context.WithCancel(t.Context())
		is.NoErr(run(ctx, append(settings, "REALTIME_ADDR=127.0.0.1:0"), io.Discard, func(net.Addr) { stop() }))
	}
}

// A history in a folder outlives what a hub knows of rooms that a service owns. Who resumes at the
// next hub has what came for them before, also where the service was asked anew meanwhile.
func TestEventsForAServicesRoomsOutliveTheHub(t *testing.T) {
	t.Parallel()
	alone(t, "it makes its own")
	for _, meanwhile := range []string{"", `"live"`} {
		t.Run("meanwhile "+meanwhile, func(t *testing.T) {
			is := is.New(t)
			members := httptest.NewServer(&roomtest.Service{Members: `"me"`})
			defer members.Close()
			settings := []string{"REALTIME_ADDR=127.0.0.1:0", "REALTIME_DRAIN=0", "REALTIME_DATA=" + t.TempDir(), "REALTIME_MEMBERSHIP_URL=" + members.URL}
			during := func(work func(h *hubtest.Hub)) {
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				listening, ended := make(chan string, 1), make(chan error, 1)
				go func() {
					ended <- run(ctx, settings, io.Discard, func(at net.Addr) { listening <- "http://" + at.String() })
				}()
				h := &hubtest.Hub{URL: <-listening, Client: hubtest.CheckedClient(t, &http.Transport{})}
				defer h.Client.CloseIdleConnections()
				work(h)
				stop()
				is.NoErr(<-ended)
			}
			toRoom := func(h *hubtest.Hub, payload string) {
				h.Publish(t, "acme", "a.b", `{"kind":"conversation","conversationId":"r"}`, payload)
			}
			cursor := ""
			during(func(h *hubtest.Hub) {
				cursor = h.Publish(t, "acme", "a.b", `{"kind":"tenant"}`, "0")["cursor"].(string)
				toRoom(h, "1")
				toRoom(h, "2")
			})
			during(func(h *hubtest.Hub) {
				want := "1 2"
				if meanwhile != "" {
					toRoom(h, meanwhile)
					want += " " + meanwhile
				}
				me := h.Back(t, cursor, meQuery)
				is.Equal(h.Replayed(t, me), want)
				other := h.Back(t, cursor, "tenant=acme&profile=other")
				is.Equal(h.Replayed(t, other), "")
			})
		})
	}
}
