package doctor

// doorCures is what to change for a door beside Server-Sent Events, by a finding's code.
func doorCures(door Door, code string) []Advice {
	a := func(proxy, change string) Advice { return Advice{proxy, false, change} }
	switch {
	case code == "no-upgrade":
		return []Advice{
			a(nginx, "`proxy_http_version 1.1;`, `proxy_set_header Upgrade $http_upgrade;` and `proxy_set_header Connection $hop;` in the location, with `map $http_upgrade $hop { default upgrade; \"\" \"\"; }` in `http`."),
			a(caddy, "reverse_proxy passes it on by itself: no `header_up -Upgrade` or `-Connection`, and no `versions 2` or `h2c` alone in `transport http`."),
			a(haproxy, "it passes it on by itself: no `http-request del-header Upgrade`; to the hub HTTP/1.1, so no `proto h2` of the `server`."),
			a(traefik, "it passes it on by itself: no middleware that sets `Upgrade` or `Connection`; `http` and not `h2c` to the hub."),
			a(envoy, "`upgrade_configs: [{upgrade_type: websocket}]` in the connection manager or the route; HTTP/1.1 to the hub."),
			a(alb, "it passes it on by itself to a target group of protocol version HTTP1."),
			a(cloudflare, "Network: WebSockets on, the default."),
			a(google, "it passes it on by itself to a backend service of the protocol HTTP or HTTPS, not HTTP/2."),
			a(apache, "`upgrade=websocket` in `ProxyPass` (2.4.47 or newer)."),
			a(lighttpd, "`proxy.header = ( \"upgrade\" => \"enable\" )`."),
			a(varnish, "`return (pipe);` in `vcl_recv`, and `set bereq.http.Upgrade = req.http.Upgrade; set bereq.http.Connection = req.http.Connection;` in `vcl_pipe`."),
			a(squid, "`http_upgrade_request_protocols websocket allow all` (5 or newer), in lower case, as browsers say it."),
			a(ats, "a rule in `remap.config` with `ws://` on both sides, beside that with `http://`."),
			a(nghttpx, "it passes it on by itself to a hub with HTTP/1.1: no `proto=h2` of the `backend`."),
			a(h2o, "`proxy.websocket: ON`; from 2.3 on `proxy.tunnel: ON`."),
		}
	case door == WebSocket && (code == "idle-cut" || code == "vanished"):
		return []Advice{
			a(nginx, "`proxy_read_timeout`, 60 s by default: three heartbeats, `45s`."),
			a(caddy, "no such limit of its own. Look at what is before or behind it."),
			a(haproxy, "`timeout tunnel`, else `timeout client` and `timeout server`: three heartbeats, `45s`."),
			a(traefik, "no limit of its own for a silent WebSocket. Look at what is before or behind it."),
			a(envoy, "`stream_idle_timeout` of the connection manager (5 min by default), or the route's `idle_timeout`."),
			a(alb, "the attribute `idle_timeout.timeout_seconds`: 60 by default, 1 to 4000."),
			a(cloudflare, "100 s without a message either way; nothing to set but for Enterprise. The hub's heartbeat has to be shorter."),
			a(apache, "`TimeOut`, 60 s by default, and not `timeout=` of `ProxyPass`: three heartbeats, 45."),
			a(lighttpd, "`server.max-read-idle`, 60 s by default, without anything from the client, which answers each heartbeat: 45."),
			a(varnish, "`-p pipe_timeout=45`: 60 s by default."),
			a(squid, "`read_timeout`, 15 minutes by default."),
			a(ats, "`proxy.config.websocket.no_activity_timeout`, 600 s by default."),
			a(nghttpx, "`backend-read-timeout`, 1 minute by default."),
			a(h2o, "`proxy.websocket.timeout`, 300000 ms by default; from 2.3 on `proxy.timeout.io`."),
			a(hub, "or a shorter REALTIME_HEARTBEAT: a third of the time after which it is cut."),
		}
	case door == WebSocket && code == "total-cut":
		return []Advice{
			a(nginx, "no such limit but for old workers after a reload: `worker_shutdown_timeout`. Look at what is before or behind it."),
			a(caddy, "no `stream_timeout` in reverse_proxy; a reload cuts WebSockets at once unless there is `stream_close_delay`."),
			a(haproxy, "no such limit but for reloads: `hard-stop-after`."),
			a(envoy, "no `max_stream_duration`, and the route's `timeout: 0s`."),
			a(cloudflare, "it restarts its servers now and then, which cuts WebSockets: clients come back."),
			a(google, "the backend service's timeout, `timeoutSec`: 30 s by default, for the whole life of a WebSocket."),
			a(lighttpd, "no such limit; a `server.max-read-idle` below the heartbeat cuts all, since clients say nothing but pongs."),
			a(ats, "`proxy.config.websocket.active_timeout`, 3600 s by default."),
			a(squid, "`client_lifetime`, a day by default."),
		}
	case door == Poll && (code == "idle-cut" || code == "vanished"):
		return []Advice{
			a(nginx, "`proxy_read_timeout` of this location, 60 s by default: more than `wait`."),
			a(caddy, "no `response_header_timeout` and no `read_timeout` below `wait` in `transport http`; no `write` in `timeouts`."),
			a(haproxy, "`timeout server` and `timeout client`: more than `wait`."),
			a(traefik, "`respondingTimeouts.writeTimeout` of the entry point: `0`, and `responseHeaderTimeout` of the `serversTransport`: `0`, the defaults."),
			a(envoy, "the route's `timeout`, 15 s by default: `0s`, or more than `wait`."),
			a(alb, "the attribute `idle_timeout.timeout_seconds`, 60 by default: more than `wait`."),
			a(cloudflare, "Proxy Read Timeout: 120 s, Enterprise may raise it."),
			a(google, "the backend service's timeout, `timeoutSec`, 30 s by default: more than `wait`."),
			a(apache, "`ProxyTimeout`, or `timeout=` of `ProxyPass`: more than `wait`."),
			a(varnish, "`first_byte_timeout` of the backend, 60 s by default: more than `wait`."),
			a(squid, "`read_timeout`, 15 minutes by default."),
			a(ats, "`proxy.config.http.transaction_no_activity_timeout_in` and `_out`, 30 s by default: more than `wait`."),
			a(nghttpx, "`backend-read-timeout`, 1 minute by default: more than `wait`."),
			a(h2o, "`proxy.timeout.io`, 30000 ms by default: more than `wait`."),
			a(hub, "have clients ask for a shorter `wait`."),
		}
	case code == "origin":
		return []Advice{a(hub, "list the page's origin in REALTIME_CORS_ORIGINS; behind a proxy that changes Host, the hub's own address, too.")}
	case code == "not-found":
		return []Advice{a(hub, "the proxy has to send `/v1/` and `/signalr` to the hub.")}
	}
	return nil
}
