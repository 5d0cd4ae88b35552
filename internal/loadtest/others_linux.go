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

const (
	nginxPath  = "/usr/sbin/nginx"
	nchanPath  = "/usr/lib/nginx/modules/ngx_nchan_module.so"
	needsNchan = "nchan is missing: install the Debian packages nginx and libnginx-mod-nchan"
)

func hasNginx() bool { return isThere(nginxPath) }
func hasNchan() bool { return hasNginx() && isThere(nchanPath) }

func isThere(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// nginxConfig is what each nginx has, around what it is measured for.
const nginxConfig = `%s
daemon off;
pid %[2]s/nginx.pid;
worker_processes 1;
worker_rlimit_nofile 40000;
error_log stderr error;
events { worker_connections 32768; }
http {
	access_log off;
	client_body_temp_path %[2]s/body;
	proxy_temp_path %[2]s/proxy;
	fastcgi_temp_path %[2]s/fastcgi;
	uwsgi_temp_path %[2]s/uwsgi;
	scgi_temp_path %[2]s/scgi;
%[3]s
}
`

// startNginx starts nginx with what its configuration has at the top, and in http for an address.
func (n *nursery) startNginx(name, top string, http func(addr string) string) (*server, error) {
	return n.start(name, func(addr string) (*exec.Cmd, error) {
		if os.Getuid() == 0 {
			top += "\nuser root;"
		}
		path := filepath.Join(n.dir, name+".conf")
		if err := os.WriteFile(path, fmt.Appendf(nil, nginxConfig, top, n.dir, http(addr)), 0o600); err != nil {
			return nil, err
		}
		return exec.Command(nginxPath, "-p", n.dir, "-e", "stderr", "-c", path), nil
	})
}

const nchanConfig = `
	keepalive_requests 100000000;
	nchan_max_reserved_memory 512M;
	server {
		listen %s;
		location /sub { nchan_subscriber eventsource; nchan_channel_id $arg_id all; }
		location /pub {
			nchan_publisher;
			nchan_channel_id $arg_id;
			nchan_message_buffer_length 1000;
			nchan_message_timeout 1m;
		}
	}`

// nchan starts nginx with the module that streams events.
func (n *nursery) nchan() (*server, error) {
	return n.startNginx("nchan", "load_module "+nchanPath+";", func(addr string) string { return fmt.Sprintf(nchanConfig, addr) })
}

// proxyConfig is what docs/recipes.md has of nginx, and no more.
const proxyConfig = `
	server {
		listen %s ssl http2;
		ssl_certificate %s;
		ssl_certificate_key %s;
		location / {
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_set_header Host $http_host;
			proxy_pass http://%s;
			proxy_buffering off;
			proxy_read_timeout 45s;
		}
	}`

// proxy starts nginx with TLS and HTTP/2 before a hub.
func (n *nursery) proxy(hub, cert, key string) (*server, error) {
	return n.startNginx("proxy", "", func(addr string) string { return fmt.Sprintf(proxyConfig, addr, cert, key, hub) })
}

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
