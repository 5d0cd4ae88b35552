package recipes

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"
	yaml "go.yaml.in/yaml/v4"

	"realtimehub/internal/hubtest"
	"realtimehub/internal/natstest"
)

// The brokers of compose.yaml, started as it says but for hosts and ports, are a cluster
// that a hub with its URL joins, and nobody without the password.
func TestComposeBrokers(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	text, conf := hubtest.ReadFile(t, "compose.yaml"), hubtest.ReadFile(t, "deploy/nats.conf")
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
		_, err := nats.Connect(strings.ReplaceAll(url, "hub:1e5@", who))
		is.True(errors.Is(err, nats.ErrAuthorization))
	}
}
