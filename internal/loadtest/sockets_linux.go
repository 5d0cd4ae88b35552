//go:build linux

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const needsCentrifugo = "centrifugo is missing: go install github.com/centrifugal/centrifugo/v6@latest"

func hasCentrifugo() bool {
	_, err := exec.LookPath("centrifugo")
	return err == nil
}

// library starts a server of WebSockets that is made with a Go library. What it needs is
// a module of its own, so that the hub's has no more libraries for it.
func (b *bench) library(name string) (*server, error) {
	if b.libraries == "" {
		b.say("building libraries")
		found, err := exec.Command("go", "list", "-f", "{{.Dir}}", "realtimehub/internal/loadtest").Output()
		if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		path := filepath.Join(b.dir, "libraries")
		build := exec.Command("go", "build", "-o", path, ".")
		build.Dir = filepath.Join(strings.TrimSpace(string(found)), "libraries")
		if out, err := build.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("go build %s: %w\n%s", build.Dir, err, out)
		}
		b.libraries = path
	}
	return b.start(name, func(addr string) (*exec.Cmd, error) {
		cmd := exec.Command(b.libraries, name, addr)
		cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
		return cmd, nil
	})
}

// centrifugoConfig lets anybody subscribe to any channel, and publish.
const centrifugoConfig = `{
	"log": {"level": "error"},
	"usage_stats": {"enabled": false},
	"client": {"allow_anonymous_connect_without_token": true},
	"channel": {"without_namespace": {"allow_subscribe_for_client": true, "allow_subscribe_for_anonymous": true}},
	"http_api": {"insecure": true},
	"http_server": {"address": %q, "port": %q},
	"uni_websocket": {"enabled": true, "write_timeout": "60s"}
}`

// centrifugo starts Centrifugo, for unidirectional clients.
func (n *nursery) centrifugo() (*server, error) {
	return n.start("centrifugo", func(addr string) (*exec.Cmd, error) {
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		path := filepath.Join(n.dir, "centrifugo.json")
		if err := os.WriteFile(path, fmt.Appendf(nil, centrifugoConfig, host, port), 0o600); err != nil {
			return nil, err
		}
		cmd := exec.Command("centrifugo", "-c", path)
		cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
		return cmd, nil
	})
}
