package doctor

import (
	"slices"
	"strings"
)

// Advice is what to change in one kind of proxy.
type Advice struct {
	Proxy  string `json:"proxy"`
	Seen   bool   `json:"seen"` // it showed itself
	Change string `json:"change"`
}

// The proxies that are known. What is on the way and not known may be configured in
// words like one of these.
const (
	nginx      = "nginx"
	caddy      = "Caddy"
	haproxy    = "HAProxy"
	traefik    = "Traefik"
	envoy      = "Envoy"
	alb        = "AWS ALB"
	cloudflare = "Cloudflare"
	google     = "Google Cloud"
	apache     = "Apache"
	lighttpd   = "lighttpd"
	varnish    = "Varnish"
	squid      = "Squid"
	ats        = "Apache Traffic Server"
	nghttpx    = "nghttpx"
	h2o        = "h2o"
	hub        = "the hub"
)

// cures is what to change, by a finding's code.
func cures(code string) []Advice {
	a := func(proxy, change string) Advice { return Advice{proxy, false, change} }
	switch code {
	case "buffered":
		return []Advice{
			a(nginx, "`proxy_buffering off;` in the location, and no `proxy_ignore_headers X-Accel-Buffering`; `gzip off;` there."),
			a(caddy, "it passes text/event-stream on at once by itself: take `encode` off this path. If the type was changed on the way, `flush_interval -1`."),
			a(haproxy, "it does not collect answers by itself; take `compression` off this backend."),
			a(traefik, "take the middlewares `buffering` and `compress` off this router, or `excludedContentTypes: [text/event-stream]` in `compress`."),
			a(envoy, "no filter that waits for the whole body on this route: compressor, ext_proc with BUFFERED, Lua that reads body(), file_system_buffer."),
			a(alb, "it does not collect answers of instances and addresses; those of a Lambda function it does."),
			a(cloudflare, "text/event-stream is passed on; look for Response Buffering (Enterprise), and for rules or Workers that read the whole body."),
			a(apache, "it passes on what comes: no `mod_buffer`, and `SetEnv no-gzip 1` on this path."),
			a(lighttpd, "`server.stream-response-body = 2`; with 0, the default, it collects the whole answer."),
			a(varnish, "`return (pipe);` in `vcl_recv` for this path; else it can keep an event until the next one comes."),
			a(squid, "it passes on what comes: no ICAP or eCAP service for this path."),
			a(ats, "it passes on what comes: no plugin that transforms answers, such as `compress`, for this path."),
			a(nghttpx, "it passes on what comes. Look at what is before or behind it."),
			a(h2o, "it passes on what comes: `compress: OFF` on this path."),
		}
	case "idle-cut", "vanished":
		return []Advice{
			a(nginx, "`proxy_read_timeout`, 60 s by default: three heartbeats, `45s`."),
			a(caddy, "`read_timeout` in reverse_proxy's `transport http`, none by default: three heartbeats, `45s`."),
			a(haproxy, "`timeout server` and `timeout client`: both more than the heartbeat, say 1m. (`timeout tunnel` is for WebSockets.)"),
			a(traefik, "no limit of its own for a silent answer. Look at what is before or behind it."),
			a(envoy, "`stream_idle_timeout` of the connection manager (5 min by default), or the route's `idle_timeout`."),
			a(alb, "the attribute `idle_timeout.timeout_seconds`: 60 by default, 1 to 4000."),
			a(cloudflare, "Proxy Read Timeout: 120 s, Enterprise may raise it. The hub's heartbeat has to be shorter."),
			a(apache, "`ProxyTimeout`, or `timeout=` of `ProxyPass`, else `TimeOut`: 60 s by default; three heartbeats, 45."),
			a(lighttpd, "no limit of its own for a silent answer. Look at what is before or behind it."),
			a(varnish, "`-p pipe_timeout=45` with `return (pipe)`, else `between_bytes_timeout`: both 60 s by default."),
			a(squid, "`read_timeout`, 15 minutes by default."),
			a(ats, "`proxy.config.http.transaction_no_activity_timeout_in` and `_out`: 30 s by default."),
			a(nghttpx, "`backend-read-timeout`, 1 minute by default, and `frontend-write-timeout`."),
			a(h2o, "`proxy.timeout.io`, 30000 ms by default."),
			a(hub, "or a shorter REALTIME_HEARTBEAT: a third of the time after which it is cut."),
		}
	case "total-cut":
		return []Advice{
			a(nginx, "no such limit but for old workers after a reload: `worker_shutdown_timeout`. Look at what is before or behind it."),
			a(caddy, "`servers { timeouts { … } }`: no `write`, which is for the whole answer."),
			a(haproxy, "no such limit. If streams with events are cut all the same, look at `timeout client` and at `hard-stop-after` (reloads)."),
			a(traefik, "`respondingTimeouts.writeTimeout` of the entry point: `0`, the default. (`readTimeout` is for requests.)"),
			a(envoy, "the route's `timeout: 0s` (15 s by default, for the whole answer), and no `max_stream_duration`."),
			a(alb, "no such limit; a target that is deregistered loses its streams after the deregistration delay (300 s by default)."),
			a(cloudflare, "no fixed limit that is documented; Workers have their own."),
			a(google, "the backend service's timeout, `timeoutSec`: 30 s by default, for the whole answer, up to 86400."),
			a(apache, "no such limit; a graceful restart leaves streams to old processes until `GracefulShutdownTimeout`."),
			a(lighttpd, "no such limit; look at what restarts it."),
			a(varnish, "`pipe_task_deadline` (7.6 or newer) with `return (pipe)`: none by default."),
			a(squid, "`client_lifetime`, a day by default."),
			a(ats, "`proxy.config.http.transaction_active_timeout_in`, 900 s by default: 0."),
			a(nghttpx, "no such limit. Look at what is before or behind it."),
			a(h2o, "no such limit. Look at what is before or behind it."),
		}
	case "compressed":
		return []Advice{
			a(nginx, "`gzip off;` in the location; no `gzip_types *` or text/event-stream."),
			a(caddy, "no `encode` on this path, or a `match` in it that leaves text/event-stream out."),
			a(haproxy, "take text/event-stream out of `compression type`."),
			a(traefik, "`excludedContentTypes: [text/event-stream]` in the middleware `compress`."),
			a(envoy, "no text/event-stream among the compressor's `content_type`."),
			a(cloudflare, "a Compression Rule that turns it off for this path; it should heed no-transform, which must arrive."),
			a(apache, "`SetEnv no-gzip 1` on this path; no text/event-stream in `AddOutputFilterByType DEFLATE`."),
			a(lighttpd, "no text/event-stream in `deflate.mimetypes`."),
			a(varnish, "no `set beresp.do_gzip` for this path, or `return (pipe)`."),
			a(squid, "it does not compress by itself. Look for an eCAP service."),
			a(ats, "the plugin `compress`: `compressible-content-type !text/event-stream`."),
			a(nghttpx, "it does not compress. Look at what is before or behind it."),
			a(h2o, "`compress: OFF` on this path."),
		}
	case "content-type", "cache-control", "cached":
		return []Advice{
			a(nginx, "no `proxy_hide_header`, `add_header`, `expires`, `charset` or `proxy_cache` in this location; no `proxy_ignore_headers Cache-Control`."),
			a(caddy, "no `header` directive on this path that sets it."),
			a(haproxy, "no `http-response set-header` for it on this backend, and no `cache-use`."),
			a(traefik, "no `headers` middleware that sets it on this router."),
			a(envoy, "no `response_headers_to_add` that overwrites it, no cache filter on this route."),
			a(cloudflare, "no Cache Rule with an Edge TTL, and no Transform Rule, for this path."),
			a(apache, "no `Header set`, `ExpiresActive` or `CacheEnable` on this path."),
			a(lighttpd, "no `setenv.set-response-header` and no `expire.url` on this path."),
			a(varnish, "`return (pipe);` in `vcl_recv` for this path; no `set resp.http…`."),
			a(squid, "`cache deny` for this path, no `reply_header_replace`."),
			a(ats, "no rule for this path in `cache.config`, and none of the plugin `header_rewrite`."),
			a(nghttpx, "no `mruby-file` that sets it."),
			a(h2o, "no `header.set` on this path."),
		}
	case "http1-only", "http2-failed":
		return []Advice{
			a(nginx, "`listen 443 ssl; http2 on;` (before 1.25.1 `listen 443 ssl http2;`)."),
			a(caddy, "on by default with TLS: `servers { protocols h1 h2 h3 }`."),
			a(haproxy, "`bind :443 ssl crt … alpn h2,http/1.1`."),
			a(traefik, "on by default with TLS; look at `alpnProtocols` of its TLS options."),
			a(envoy, "`alpn_protocols: [h2, http/1.1]` in the listener's TLS context, `codec_type: AUTO`."),
			a(alb, "an HTTPS listener; the attribute `routing.http2.enabled` is true by default."),
			a(cloudflare, "on by default."),
			a(apache, "`Protocols h2 http/1.1`, with the module http2 and not the MPM prefork."),
			a(lighttpd, "on by default with TLS: no `\"server.h2proto\" => \"disable\"`."),
			a(varnish, "it has no TLS, and `return (pipe)` needs HTTP/1.1: let what does TLS before it speak HTTP/2 to browsers, and HTTP/1.1 to it."),
			a(squid, "it has no HTTP/2: put a proxy that has it in front, or in its place."),
			a(ats, "`443:ssl:proto=http2;http` in `proxy.config.http.server_ports`, which is its default with `ssl`."),
			a(nghttpx, "on by default with TLS."),
			a(h2o, "on by default with TLS."),
			a(hub, "without a proxy: REALTIME_TLS_CERT and REALTIME_TLS_KEY."),
		}
	case "host":
		return []Advice{
			a(nginx, "`proxy_set_header Host $http_host;`; by default it sends the name in `proxy_pass`."),
			a(caddy, "it leaves Host as it came to a hub without TLS: no `header_up Host`. To one with TLS newer versions need `header_up Host {hostport}`."),
			a(haproxy, "it leaves Host as it came: no `http-request set-header Host`."),
			a(traefik, "`passHostHeader: true` of the service, the default; no middleware that sets it."),
			a(envoy, "no `host_rewrite_literal`, `auto_host_rewrite` or the like on this route."),
			a(alb, "the attribute `routing.http.preserve_host_header.enabled`: true."),
			a(cloudflare, "no Host Header Override in an Origin Rule."),
			a(google, "no custom request header `Host` of the backend service."),
			a(apache, "`ProxyPreserveHost On`; by default it sends the name in `ProxyPass`."),
			a(lighttpd, "it leaves Host as it came: no `map-host-request` in `proxy.header`."),
			a(varnish, "it leaves Host as it came: no `set req.http.host`."),
			a(squid, "it leaves Host as it came: no `forceddomain=` in `cache_peer`."),
			a(ats, "`proxy.config.url_remap.pristine_host_hdr`: 1; by default it sends the name in `remap.config`."),
			a(nghttpx, "it leaves Host as it came: no `host-rewrite`."),
			a(h2o, "`proxy.preserve-host: ON`; by default it sends the name in `proxy.reverse.url`."),
		}
	case "leave-late":
		return []Advice{
			a(nginx, "`proxy_ignore_client_abort off;`, which is the default."),
			a(caddy, "it tells the hub by itself; in some versions not with `flush_interval -1`."),
			a(haproxy, "`option abortonclose` in `defaults`: in the backend alone it is not enough."),
			a(traefik, "it tells the hub by itself. Look at what is before or behind it."),
			a(envoy, "it tells the hub by itself. Look at what is before or behind it."),
			a(alb, "nothing to set that is documented. Look at what is before or behind it."),
			a(cloudflare, "nothing to set that is documented; a Worker may go on reading after its client has left."),
			a(apache, "it looks for its client only when it has something to write: a shorter REALTIME_HEARTBEAT, or another proxy for streams."),
			a(lighttpd, "HTTP/2, where it tells the hub; with HTTP/1.1 it looks for its client only when it has something to write."),
			a(varnish, "`return (pipe);` in `vcl_recv` for this path."),
			a(squid, "it tells the hub by itself of what it does not cache: `cache deny` for this path."),
			a(ats, "HTTP/1.1 clients are looked for only when there is something to write: a shorter REALTIME_HEARTBEAT."),
			a(nghttpx, "it tells the hub by itself. Look at what is before or behind it."),
			a(h2o, "HTTP/2, where it tells the hub; with HTTP/1.1 it looks for its client only when it has something to write."),
			a(hub, "a shorter REALTIME_HEARTBEAT: who left is found when the second one cannot be written."),
		}
	case "few-streams":
		return []Advice{
			a(nginx, "`limit_conn` of this location, and `worker_connections`: a stream takes two."),
			a(caddy, "no such limit of its own. Look at what is before or behind it."),
			a(haproxy, "`maxconn` of the frontend and of the `server`, and `stick-table` rules."),
			a(traefik, "take the middleware `inFlightReq` off this router."),
			a(envoy, "`max_connections`, `max_requests` and `max_pending_requests` of the cluster's circuit breakers, 1024 by default."),
			a(alb, "no such limit of its own. Look at AWS WAF."),
			a(cloudflare, "no such limit of its own. Look at Rate Limiting Rules."),
			a(apache, "`MaxRequestWorkers`, 150 by default: each stream holds a thread."),
			a(lighttpd, "`server.max-connections`: a stream takes two."),
			a(varnish, "`-p thread_pool_max`: each stream holds a thread."),
			a(squid, "no ACL `maxconn` for this path; `max_filedescriptors`."),
			a(ats, "`proxy.config.net.connections_throttle`, and `per_client.max_connections_in`."),
			a(nghttpx, "`worker-frontend-connections` and `backend-connections-per-host`."),
			a(h2o, "`max-connections`, 1024 by default."),
		}
	case "h2-streams":
		return []Advice{
			a(nginx, "`http2_max_concurrent_streams`, 128 by default."),
			a(caddy, "nothing to set: 250."),
			a(haproxy, "`tune.h2.max-concurrent-streams`, 100 by default."),
			a(traefik, "`http2.maxConcurrentStreams` of the entry point, 250 by default."),
			a(envoy, "`max_concurrent_streams` in `http2_protocol_options`."),
			a(alb, "nothing to set: 128."),
			a(cloudflare, "nothing to set, but for Enterprise."),
			a(apache, "`H2MaxSessionStreams`, 100 by default."),
			a(lighttpd, "nothing to set: 8. Let the tabs of a person share a stream, as `/realtime.js` does."),
			a(varnish, "`-p h2_max_concurrent_streams`, 100 by default."),
			a(ats, "`proxy.config.http2.max_concurrent_streams_in`, 100 by default."),
			a(nghttpx, "`frontend-http2-max-concurrent-streams`, 100 by default."),
			a(h2o, "`http2-max-concurrent-requests-per-connection`, 100 by default."),
			a(hub, "the client in `/realtime.js` has one stream for all tabs of a person."),
		}
	case "hub-cut":
		return []Advice{
			a(hub, "with a proxy on the same machine `sysctl net.core.netdev_max_backlog`: at least as many as there are streams. A broadcast to more of them loses packets, 1000 being the default."),
		}
	case "unauthorized":
		return []Advice{
			a(nginx, "no `proxy_set_header Authorization`."),
			a(squid, "`login=PASS` in `cache_peer`: by default it takes `Authorization` away."),
		}
	}
	return nil
}

// adviceFor is the cures of a finding, those proxies first that showed themselves.
func adviceFor(door Door, code string, known []string) []Advice {
	all := cures(code)
	if door != SSE {
		all = doorCures(door, code)
	}
	for i := range all {
		all[i].Seen = slices.Contains(known, all[i].Proxy)
	}
	slices.SortStableFunc(all, func(a, b Advice) int {
		switch {
		case a.Seen == b.Seen:
			return 0
		case a.Seen:
			return -1
		}
		return 1
	})
	return all
}

// proxies are those that showed themselves, in the answer's head or in the request's
// as it reached the hub. A proxy can be told to keep silent.
func (o *observed) proxies() (known []string) {
	see := func(proxy string, signs ...bool) {
		if slices.Contains(signs, true) {
			known = append(known, proxy)
		}
	}
	best := o.best()
	header, reached := best.header, map[string][]string{}
	if best.hello != nil {
		reached = best.hello.Headers
	}
	server := strings.ToLower(header.Get("Server"))
	via := strings.ToLower(strings.Join(header.Values("Via"), ",") + strings.Join(reached["Via"], ","))
	see(cloudflare, server == "cloudflare", len(reached["Cf-Ray"]) > 0)
	// Only nginx takes X-Accel-Buffering out, after it has heeded it; Cloudflare may have one inside.
	consumed := best.hello != nil && header.Get("X-Accel-Buffering") == "" && len(known) == 0
	see(google, strings.Contains(via, "google"))
	see(alb, strings.HasPrefix(server, "awselb"), len(reached["X-Amzn-Trace-Id"]) > 0)
	see(envoy, server == "envoy", server == "istio-envoy", header.Get("X-Envoy-Upstream-Service-Time") != "", len(reached["X-Envoy-Expected-Rq-Timeout-Ms"]) > 0)
	see(ats, strings.HasPrefix(server, "ats/"), strings.Contains(via, "apachetrafficserver"))
	see(apache, strings.HasPrefix(server, "apache/"), server == "apache", strings.Contains(via, "(apache/"))
	see(varnish, strings.Contains(via, "varnish"), header.Get("X-Varnish") != "")
	see(squid, strings.HasPrefix(server, "squid"), strings.Contains(via, "squid"))
	see(lighttpd, strings.HasPrefix(server, "lighttpd"))
	see(nghttpx, strings.HasPrefix(server, "nghttpx"), strings.Contains(via, "nghttpx"))
	see(h2o, strings.HasPrefix(server, "h2o"), strings.Contains(via, "h2o"))
	see(caddy, server == "caddy", strings.Contains(via, "caddy"))
	see(nginx, strings.HasPrefix(server, "nginx"), strings.HasPrefix(server, "openresty"), consumed)
	return known
}
