package metrics

import (
	"log/slog"
	"net/http"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"realtimehub/internal/allowance"
	"realtimehub/internal/count"
	"realtimehub/internal/delivery"
	"realtimehub/internal/duty"
	"realtimehub/internal/lobby"
	"realtimehub/internal/notices"
	"realtimehub/internal/outbox"
	"realtimehub/internal/serve"
	"realtimehub/internal/webhook"
)

// Metrics shows what the hub and its parts count, in Prometheus's words. The parts
// know nothing of it: they are looked at when somebody asks.
//
// No label is a user's word, or it would grow with them; but for the tenants that
// are asked for by number.
type Metrics struct {
	look     func() Values       // static
	refused  count.Words[string] // calls and lines, by code
	families []family            // static
	handler  http.Handler        // static
}

// New shows what look finds, and calls that were refused with one of some codes.
func New(look func() Values, codes []string, logger *slog.Logger) *Metrics {
	m := &Metrics{look: look, refused: count.NewWords(codes...), families: families()}
	registry := prometheus.NewRegistry()
	registry.MustRegister(m, buildInfo(), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.handler = promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelWarn)})
	return m
}

// RefusePublish counts a call, or a line of many, that was not accepted.
func (m *Metrics) RefusePublish(code string) { m.refused.Add(code, 1) }

// ServeHTTP answers a scrape.
func (m *Metrics) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	m.handler.ServeHTTP(w, r)
}

// buildInfo says what runs, as Go has noted it.
func buildInfo() prometheus.Collector {
	labels := prometheus.Labels{"version": "unknown", "revision": "unknown", "goversion": "unknown"}
	if info, ok := debug.ReadBuildInfo(); ok {
		labels["version"], labels["goversion"] = info.Main.Version, info.GoVersion
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				labels["revision"] = s.Value
			}
		}
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{Name: "realtime_build_info", Help: "1, by what runs.", ConstLabels: labels})
	info.Set(1)
	return info
}

// Values are what the parts said at one moment.
type Values struct {
	Hub          delivery.Stats
	Online, Away int              // profiles
	Auth         map[string]int64 // refused calls, by code
	Limits       map[string]int64 // how often a limit was met
	Complaints   map[serve.Complaint]int64
	Tenants      []delivery.TenantStats // those that are shown by name
	Quotas       map[string]allowance.QuotaStats
	Lobby        lobby.Stats
	Duties       duty.Stats
	Outbox       outbox.Stats
	Webhook      webhook.Stats // zero: there is none
	Notices      notices.Stats

	refused map[string]int64
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, f := range m.families {
		ch <- f.desc
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	look := m.look()
	look.refused = m.refused.Now()
	for _, f := range m.families {
		if f.histogram != nil {
			ch <- metric(f.desc, f.histogram(&look))
			continue
		}
		for word, value := range f.values(&look) {
			if word == "" {
				ch <- prometheus.MustNewConstMetric(f.desc, f.kind, value)
			} else {
				ch <- prometheus.MustNewConstMetric(f.desc, f.kind, value, word)
			}
		}
	}
}
