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
		}
	case "compressed":
		return []Advice{
			a(nginx, "`gzip off;` in the location; no `gzip_types *` or text/event-stream."),
			a(caddy, "no `encode` on this path, or a `match` in it that leaves text/event-stream out."),
			a(haproxy, "take text/event-stream out of `compression type`."),
			a(traefik, "`excludedContentTypes: [text/event-stream]` in the middleware `compress`."),
			a(envoy, "no text/event-stream among the compressor's `content_type`."),
			a(cloudflare, "a Compression Rule that turns it off for this path; it should heed no-transform, which must arrive."),
		}
	case "content-type", "cache-control", "cached":
		return []Advice{
			a(nginx, "no `proxy_hide_header`, `add_header`, `expires`, `charset` or `proxy_cache` in this location; no `proxy_ignore_headers Cache-Control`."),
			a(caddy, "no `header` directive on this path that sets it."),
			a(haproxy, "no `http-response set-header` for it on this backend, and no `cache-use`."),
			a(traefik, "no `headers` middleware that sets it on this router."),
			a(envoy, "no `response_headers_to_add` that overwrites it, no cache filter on this route."),
			a(cloudflare, "no Cache Rule with an Edge TTL, and no Transform Rule, for this path."),
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
			a(hub, "without a proxy: REALTIME_TLS_CERT and REALTIME_TLS_KEY."),
		}
	}
	return nil
}

// adviceFor is the cures of a finding, those proxies first that showed themselves.
func adviceFor(code string, known []string) []Advice {
	all := cures(code)
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
	see(caddy, server == "caddy", strings.Contains(via, "caddy"))
	see(nginx, strings.HasPrefix(server, "nginx"), strings.HasPrefix(server, "openresty"), consumed)
	return known
}
