//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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
