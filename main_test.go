package main

import (
	"context"
	"io"
	"iter"
	"net"
	"net/http"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/access"
	"realtimehub/internal/serve"
	"realtimehub/internal/settings"
)

func TestReadmeSettings(t *testing.T) {
	is := is.New(t)
	readme, err := os.ReadFile("README.md")
	is.NoErr(err)
	var got []string
	for line := range strings.Lines(string(readme)) {
		if cells := strings.Split(line, "|"); len(cells) > 4 && strings.HasPrefix(cells[1], " `REALTIME_") {
			is.True(len(strings.TrimSpace(cells[3])) > 10) // a reason
			got = append(got, strings.Trim(cells[1], " `")+"="+strings.Trim(cells[2], " `–"))
		}
	}
	var want []string
	for name, standard := range standards() {
		want = append(want, name+"="+standard)
	}
	is.Equal(got, want)
}

// standards are the settings in their order, each with its default as people read it.
func standards() iter.Seq2[string, string] {
	return func(yield func(name, standard string) bool) {
		for _, field := range reflect.VisibleFields(reflect.TypeFor[settings.Config]()) {
			standard := field.Tag.Get("envDefault")
			if field.Type.Kind() == reflect.Pointer {
				standard = "by memory" // worked out at the start, see settings.Config.Memory
				if field.Name == "NATSHistoryBytes" {
					standard = "by history" // see settings.Config.Disk
				}
			}
			if !yield(settings.Prefix+field.Tag.Get("env"), standard) {
				return
			}
		}
	}
}

func TestAWrongValueNamesItsVariable(t *testing.T) {
	for _, line := range []string{
		"REALTIME_ADDR=8080", "REALTIME_ADDR=:8080", "REALTIME_ADDR=0.0.0.0:8080", "REALTIME_DANGEROUSLY_OPEN=perhaps",
		"REALTIME_IDLE_TIMEOUT=-1s", "REALTIME_PRESENCE_TICK=0", "REALTIME_PRESENCE_AUDIENCE=all", "REALTIME_RETRY=soon",
		"REALTIME_STREAM_BUFFER=1MiB", "REALTIME_MEMORY_BUDGET=-1", "REALTIME_MEMORY_BUDGET=half", "REALTIME_MAX_BODY_BYTES=-1", "REALTIME_MEMBERSHIP_URL=ftp://secret",
		"REALTIME_NATS_PREFIX=a.b", "REALTIME_NATS_REPLICAS=0", "REALTIME_METRICS_TENANTS=-1", "REALTIME_LOG_LEVEL=loud", "REALTIME_LOG_FORMAT=xml",
	} {
		t.Run(line, func(t *testing.T) {
			is := is.New(t)
			_, err := settings.Load([]string{line})
			is.True(err != nil)
			name, value, _ := strings.Cut(line, "=")
			is.True(strings.Contains(err.Error(), name))
			is.True(value != "ftp://secret" || !strings.Contains(err.Error(), "secret"))
		})
	}
	is := is.New(t)
	_, err := settings.Load([]string{"REALTIME_ADDR=:8080", "REALTIME_DANGEROUSLY_OPEN=true", "REALTIME_IDLE_TIMEOUT=0", "REALTIME_STREAM_BUFFER=0"})
	is.NoErr(err)
	_, err = settings.Load([]string{"REALTIME_NATS_URL=nats://localhost", "REALTIME_HISTORY_TTL=1s"})
	is.True(err != nil && strings.Contains(err.Error(), "REALTIME_HISTORY_TTL")) // less than the window
	err = run(t.Context(), []string{"REALTIME_NATS_URL=nats://user:secret@%zz"}, io.Discard, nil)
	is.True(err != nil && strings.Contains(err.Error(), "REALTIME_NATS_URL") && !strings.Contains(err.Error(), "secret"))
	_, err = settings.Load([]string{"REALTIME_PUBLISH_RATE=fast"})
	is.True(strings.Contains(err.Error(), "valid number")) // 0.5 is one
	cfg, err := settings.Load([]string{"REALTIME_CORS_ORIGINS=https://a.example, https://b.example"})
	is.NoErr(err)
	_, err = access.NewAuth(t.Context(), access.Config{Origins: cfg.CORSOrigins})
	is.NoErr(err) // a blank after the comma
	_, err = access.NewAuth(t.Context(), access.Config{Origins: []string{"https://a.example", "https://b.example/app"}})
	is.True(err != nil && strings.Contains(err.Error(), "entry 2")) // which one
	is.Equal(settings.Unknown([]string{"REALTIME_ADDR=x", "REALTIME_ADR=y", "REALTIME_TOKEN=z", "HOME=/"}), []string{"REALTIME_ADR"})
}

func TestRunServesAndDrains(t *testing.T) {
	is := is.New(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	addr, done := make(chan net.Addr, 1), make(chan error, 1)
	var logs syncBuffer
	go func() {
		done <- run(ctx, []string{"REALTIME_ADDR=127.0.0.1:0", "REALTIME_LOG_LEVEL=debug"}, &logs, func(a net.Addr) { addr <- a })
	}()
	at := (<-addr).String()
	is.NoErr(serve.CheckHealth(at, false))

	res, err := checkedClient(t, nil).Get("http://" + at + "/v1/stream?tenant=acme&profile=user:1&presence=none")
	is.NoErr(err)
	defer res.Body.Close()
	events := newStreamReader(t, res.Body)
	first, err := events.Next()
	is.NoErr(err)
	is.Equal(first.Type, "hub.ready")

	post, err := checkedClient(t, nil).Post("http://"+at+"/v1/tenants/acme/events", "application/json", strings.NewReader(`{"type":"a","payload":"canary-payload"}`))
	is.NoErr(err)
	post.Body.Close()
	is.Equal(post.StatusCode, http.StatusAccepted)
	second, err := events.Next()
	is.NoErr(err)
	is.Equal(second.Type, "a")

	stop()
	last, err := events.Next()
	is.NoErr(err)
	is.Equal(last.Type, "hub.closing")
	is.True(strings.Contains(last.Data, `"reason":"drain"`))
	is.NoErr(<-done) // so the process exits 0
	is.True(serve.CheckHealth(at, false) != nil)
	is.True(!strings.Contains(logs.String(), "canary-payload"))
}

// startHub runs the whole program on a free port.
func startHub(t *testing.T, settings ...string) (url string) {
	alone(t, "the program has a hub of its own")
	ctx, stop := context.WithCancel(context.Background())
	addr, done := make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		done <- run(ctx, append(settings, "REALTIME_ADDR=127.0.0.1:0"), &syncBuffer{}, func(a net.Addr) { addr <- a })
	}()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return "http://" + (<-addr).String()
}
