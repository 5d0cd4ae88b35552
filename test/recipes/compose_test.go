package recipes

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"
	yaml "go.yaml.in/yaml/v4"

	"realtimehub/internal/hubtest"
	"realtimehub/internal/natstest"
)

// The hubs of compose.yaml, started as it says but for addresses and folders, are one.
func TestComposeHubs(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	text := hubtest.ReadFile(t, "compose.yaml")
	local := []string{
		"${REALTIME_JWT_SECRET:?sign tokens with it; openssl rand -hex 32}", strings.Repeat("j", 32),
		"${REALTIME_API_KEYS:?keys of services, such as acme=KEY; openssl rand -hex 32}", "acme=" + composeKey,
		"${REALTIME_PEERS_SECRET:?of the hubs among themselves; openssl rand -hex 32}", "1e5", // one that could be taken for a number
	}
	peers := map[string]string{}
	for i := range 3 {
		name := fmt.Sprint("hub", i+1)
		peers[name] = fmt.Sprint("127.0.0.1:", natstest.FreePort(t))
		local = append(local, name+":6222", peers[name])
	}
	var compose struct {
		Services map[string]struct {
			Environment map[string]string
			Volumes     []string
		}
	}
	is.NoErr(yaml.Unmarshal([]byte(strings.NewReplacer(local...).Replace(text)), &compose))
	settings := func(name string) (lines []string) {
		for setting, value := range compose.Services[name].Environment {
			if setting == "REALTIME_DATA" {
				is.Equal(compose.Services[name].Volumes, []string{name + ":" + value})
				value = t.TempDir()
			}
			lines = append(lines, setting+"="+value)
		}
		return append(lines, "REALTIME_PEERS_ADDR="+peers[name])
	}
	hubs := make([]*hubtest.Program, 3)
	var starting sync.WaitGroup
	for i := range hubs {
		lines := settings(fmt.Sprint("hub", i+1))
		starting.Go(func() { hubs[i] = hubtest.Start(t, lines...) }) // none is ready alone
	}
	starting.Wait()
	for _, hub := range hubs {
		is.True(hub != nil) // it has started
		eventually(t, func() bool {
			status, _ := hub.Do(t, http.MethodGet, "/readyz", "")
			return status == http.StatusOK
		})
	}
	for _, hub := range hubs {
		hub.Accepted(t, "/v1/tenants/acme/events", `{"type":"a.b","payload":1}`, "X-API-Key", composeKey)
	}
	_, body := hubs[2].Answered(t, http.MethodGet, "/v1/tenants/acme/events", "", "X-API-Key", composeKey)
	events, _ := body["events"].([]any)
	is.Equal(len(events), 3)
}

const composeKey = "kkkkkkkkkkkkkkkk"

// The brokers of compose.nats.yaml, started as it says but for hosts and ports, are a cluster
// that a hub with its URL joins, and nobody without the password.
func TestComposeBrokers(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	text, conf := hubtest.ReadFile(t, "deploy/compose.nats.yaml"), hubtest.ReadFile(t, "deploy/nats.conf")
	local := []string{"${NATS_PASSWORD:?of the hubs at the brokers; openssl rand -hex 32}", "1e5", "${NATS_PASSWORD}", "1e5"} // one that could be taken for a number
	var here []string                                                                                                         // what stands for 0.0.0.0:6222, by server
	clients := map[string]string{}
	for i := range 3 {
		name := fmt.Sprint("nats", i+1)
		route := fmt.Sprint("127.0.0.1:", natstest.FreePort(t))
		here = append(here, route)
		clients[name] = fmt.Sprint("127.0.0.1:", natstest.FreePort(t))
		local = append(local, name+":6222", route, name+":4222", clients[name])
	}
	var compose struct {
		Services map[string]struct {
			Command     []string
			Environment map[string]string
		}
	}
	is.NoErr(yaml.Unmarshal([]byte(strings.NewReplacer(local...).Replace(text)), &compose))
	for i := range 3 {
		name := fmt.Sprint("nats", i+1)
		folder := t.TempDir()
		path := filepath.Join(folder, "nats.conf")
		_, port, _ := strings.Cut(here[i], ":")
		text := strings.NewReplacer("/data", filepath.Join(folder, "data"), "6222", port, "4GB", "2GB").Replace(conf)
		is.NoErr(os.WriteFile(path, []byte(text), 0o600))
		_, client, _ := strings.Cut(clients[name], ":")
		args := []string{"--addr", "127.0.0.1", "--port", client}
		for _, arg := range compose.Services[name].Command {
			args = append(args, strings.NewReplacer("/nats.conf", path, "0.0.0.0:6222", here[i]).Replace(arg))
		}
		cmd := exec.Command(natstest.Binary(t), args...)
		is.NoErr(cmd.Start())
		t.Cleanup(func() {
			cmd.Process.Kill()
			cmd.Wait()
		})
	}
	url := compose.Services["hub1"].Environment["REALTIME_NATS_URL"]
	is.True(strings.Contains(url, "hub:1e5@"+clients["nats3"]))
	hub := hubtest.Start(t, "REALTIME_NATS_URL="+url, "REALTIME_NATS_REPLICAS=3")
	eventually(t, func() bool {
		status, _ := hub.Do(t, http.MethodGet, "/readyz", "")
		return status == http.StatusOK
	})
	hub.Publish(t, "acme", "a.b", `{"kind":"tenant"}`, "1")
	is.Equal(hub.Stop().ExitCode(), 0) // before its brokers
	for _, who := range []string{"", "hub:another@"} {
		_, err := nats.Connect(strings.ReplaceAll(url, "hub:1e5@", who), nats.Timeout(time.Minute))
		is.True(errors.Is(err, nats.ErrAuthorization))
	}
}
