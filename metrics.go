package main

import (
	"log/slog"
	"net/http"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"realtimehub/internal/access"
	"realtimehub/internal/allowance"
	"realtimehub/internal/count"
	"realtimehub/internal/engine"
	"realtimehub/internal/history"
	"realtimehub/internal/lobby"
	"realtimehub/internal/serve"
)

// Metrics shows what the hub and its parts count, in Prometheus's words. The parts
// know nothing of it: they are looked at when somebody asks.
//
// No label is a user's word, or it would grow with them; but for the tenants that
// are asked for by number.
type Metrics struct {
	hub      *Hub
	presence *Presence
	auth     *access.Auth
	limits   *access.Rates
	tenants  int // that are shown, those with most streams
	refused  count.Words[string]
	lobby    *lobby.Lobby // nil: connections are not bounded

	complaints *serve.ErrorLog // net/http's

	families []family
	handler  http.Handler
}

// NewMetrics shows a hub's metrics, and of so many tenants their part.
func NewMetrics(hub *Hub, presence *Presence, auth *access.Auth, limits *access.Rates, tenants int, logger *slog.Logger) *Metrics {
	m := &Metrics{
		hub: hub, presence: presence, auth: auth, limits: limits, tenants: tenants,
		refused: count.NewWords(problemCodes()...), complaints: serve.NewErrorLog(logger), families: families(),
	}
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

// look is what the parts said at one moment.
type look struct {
	HubStats
	online, away int
	auth, limits map[string]int64
	refused      map[string]int64
	complaints   map[serve.Complaint]int64
	tenants      []TenantStats
	quotas       map[string]allowance.QuotaStats
	lobby        lobby.Stats
}

func (m *Metrics) look() *look {
	l := &look{HubStats: m.hub.Stats(), auth: m.auth.Refused(), limits: m.limits.Met(), refused: m.refused.Now(), complaints: m.complaints.Counts(), quotas: m.hub.quotas.Stats()}
	l.lobby = m.lobby.Stats()
	l.Ready = l.Ready && m.auth.Ready() == nil
	l.online, l.away = m.presence.Counts()
	l.limits["memberships"] = m.hub.members.full.Load()
	l.Dropped[DropRoom] = int64(m.presence.typists.Crowded())
	if m.tenants > 0 {
		l.tenants = m.hub.Busiest(m.tenants)
	}
	return l
}

// family is one metric: of one value by each of its label's words, or without a
// label of one; or a histogram.
type family struct {
	desc      *prometheus.Desc
	kind      prometheus.ValueType
	values    func(*look) map[string]float64
	histogram func(*look) count.Histogram
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
	for _, f := range m.families {
		if f.histogram != nil {
			ch <- metric(f.desc, f.histogram(look))
			continue
		}
		for word, value := range f.values(look) {
			if word == "" {
				ch <- prometheus.MustNewConstMetric(f.desc, f.kind, value)
			} else {
				ch <- prometheus.MustNewConstMetric(f.desc, f.kind, value, word)
			}
		}
	}
}

func metric(desc *prometheus.Desc, h count.Histogram) prometheus.Metric {
	below, all := map[float64]uint64{}, uint64(0)
	for i, n := range h.Buckets {
		all += uint64(n)
		if i < len(h.Bounds) {
			below[h.Bounds[i]] = all
		}
	}
	return prometheus.MustNewConstHistogram(desc, all, h.Sum, below)
}

// families is every metric of ours.
func families() (all []family) {
	add := func(kind prometheus.ValueType, name, label, help string, values func(*look) map[string]float64) {
		var labels []string
		if label != "" {
			labels = []string{label}
		}
		all = append(all, family{desc: prometheus.NewDesc("realtime_"+name, help, labels, nil), kind: kind, values: values})
	}
	histogram := func(name, help string, of func(*look) count.Histogram) {
		all = append(all, family{desc: prometheus.NewDesc("realtime_"+name, help, nil, nil), histogram: of})
	}
	const gauge, counter = prometheus.GaugeValue, prometheus.CounterValue

	add(gauge, "ready", "", "1 while the hub takes streams and can store events.",
		func(l *look) map[string]float64 {
			if l.Ready {
				return one(1)
			}
			return one(0)
		})
	add(gauge, "streams_open", "", "Streams that are open.",
		func(l *look) map[string]float64 { return one(l.Streams) })
	add(counter, "connects_total", "resume", "Streams that were opened, by how they began.",
		func(l *look) map[string]float64 { return words(l.Connects) })
	add(counter, "closes_total", "reason", "Streams that have ended.",
		func(l *look) map[string]float64 { return words(l.Closes) })
	add(counter, "streams_refused_total", "reason", "Streams that were turned away.",
		func(l *look) map[string]float64 { return words(l.Refused) })
	add(counter, "events_accepted_total", "target", "Events that were published to this hub, by kind of target.",
		func(l *look) map[string]float64 { return words(l.Accepted) })
	add(counter, "events_duplicate_total", "", "Events whose id was known: nothing was delivered again.",
		func(l *look) map[string]float64 { return one(l.Duplicates) })
	add(counter, "events_unconfirmed_total", "", "Events that the broker did not confirm in time.",
		func(l *look) map[string]float64 { return one(l.Unconfirmed) })
	add(counter, "hub_unanswered_total", "", "Questions to other hubs that were not answered.",
		func(l *look) map[string]float64 { return one(l.Unanswered) })
	add(counter, "events_refused_total", "code", "Publish calls and lines that were refused; a batch counts once.",
		func(l *look) map[string]float64 { return words(l.refused) })
	add(counter, "deliveries_total", "", "Events that were written whole to a stream, each stream by itself.",
		func(l *look) map[string]float64 { return one(l.Engine.Delivered) })
	add(counter, "drops_total", "reason", "Events that were not written to a stream they were for, each stream by itself.",
		func(l *look) map[string]float64 { return words(l.Dropped) })
	add(counter, "gaps_total", "reason", "How often something was missed for good.",
		func(l *look) map[string]float64 { return words(l.Gaps) })
	add(gauge, "queue_bytes", "", "Bytes of memory for what all streams together are owed: an event counts once.",
		func(l *look) map[string]float64 { return one(l.Engine.Owed) })
	histogram("publish_to_write_seconds", "From a publish to the write that hands its event to the kernel; by write call, of the oldest event in it.",
		func(l *look) count.Histogram { return agesOf(&l.Engine) })
	histogram("replay_events", "Events that a resume brought until the stream had caught up.",
		func(l *look) count.Histogram { return l.Replayed })
	add(counter, "auth_failures_total", "reason", "Calls that were refused for their credential or for where they come from.",
		func(l *look) map[string]float64 { return words(l.auth) })
	add(counter, "rate_limited_total", "limit", "How often a rate limit, or that of the doctor's probes or of memberships, was met: refused, or had to wait.",
		func(l *look) map[string]float64 { return words(l.limits) })
	add(gauge, "overloaded", "", "1 while hardly any memory is left, and new streams and events are refused.",
		func(l *look) map[string]float64 {
			if l.Overload.Now {
				return one(1)
			}
			return one(0)
		})
	add(gauge, "memory_used_bytes", "", "Memory that a collection cannot give back, as of the last one.",
		func(l *look) map[string]float64 { return one(l.Overload.Used) })
	add(gauge, "memory_limit_bytes", "", "How much that may be: Go's memory limit; 0: no limit.",
		func(l *look) map[string]float64 { return one(l.Overload.Limit) })
	quotas := func(of func(allowance.QuotaStats) int64) func(*look) map[string]float64 {
		return func(l *look) map[string]float64 {
			values := map[string]float64{}
			for name, q := range l.quotas {
				values[name] = float64(of(q))
			}
			return values
		}
	}
	add(gauge, "quota_bytes", "quota", "Bytes that are taken of what is shared.", quotas(allowance.QuotaStats.Total))
	add(gauge, "quota_limit_bytes", "quota", "Bytes that there are to share; 0: no limit.", quotas(allowance.QuotaStats.All))
	add(counter, "quota_refused_total", "quota", "How often somebody was past a share.", quotas(allowance.QuotaStats.Refused))
	add(gauge, "unproven_open", "", "Connections that have proven nothing yet.",
		func(l *look) map[string]float64 { return one(l.lobby.Connections) })
	add(gauge, "unproven_limit", "", "So many of them there may be; 0: no limit.",
		func(l *look) map[string]float64 { return one(l.lobby.All) })
	add(counter, "unproven_cut_total", "bound", "Connections that have proven nothing and were refused or cut, and requests likewise.",
		func(l *look) map[string]float64 { return words(l.lobby.Refused) })
	add(counter, "server_errors_total", "kind", "What net/http had to say: connections that could not be taken, panics, clients that do not keep to the protocol.",
		func(l *look) map[string]float64 { return words(l.complaints) })
	add(gauge, "presence_profiles", "status", "Profiles that are not offline, as this hub knows.",
		func(l *look) map[string]float64 {
			return words(map[Status]int64{Online: int64(l.online), Away: int64(l.away)})
		})
	add(gauge, "history_events", "", "Events that are kept; with a broker by all hubs together.",
		func(l *look) map[string]float64 { return l.kept(l.Log.Entries) })
	add(gauge, "history_bytes", "", "Bytes that those take; with a broker its own.",
		func(l *look) map[string]float64 { return l.kept(int(l.Log.Bytes)) })
	add(gauge, "history_limit_bytes", "", "Bytes that those may take together; 0: no limit.",
		func(l *look) map[string]float64 { return l.kept(int(l.Log.Limit)) })
	add(gauge, "history_memory_bytes", "", "Bytes of memory that histories take in this hub.",
		func(l *look) map[string]float64 { return one(l.Log.Memory) })
	add(counter, "history_cut_total", "bound", "Events that went before their time: past their tenant's bytes, or past all tenants' and theirs had most.",
		func(l *look) map[string]float64 {
			return map[string]float64{"tenant": float64(l.Log.CutTenant), "all": float64(l.Log.CutAll)}
		})
	add(counter, "broker_lost_total", "kept", "How often this hub learned that the broker had lost something of all tenants.",
		func(l *look) map[string]float64 {
			return words(map[history.Kept]int64{history.KeptHistory: l.Log.Gone[history.KeptHistory], history.KeptEpoch: l.Log.Gone[history.KeptEpoch], history.KeptMembers: l.Log.Gone[history.KeptMembers]})
		})
	add(counter, "broker_faults_total", "fault", "What was wrong with the broker, as this hub saw it.",
		func(l *look) map[string]float64 {
			values := map[string]float64{}
			for _, fault := range []history.Fault{history.FaultHistory, history.FaultMembership, history.FaultRefused, history.FaultMoved, history.FaultOther} {
				values[string(fault)] = float64(l.Log.Faults[fault])
			}
			return values
		})
	add(gauge, "dedupe_ids", "", "Ids that this hub would recognise; with a broker the servers do, and this is 0.",
		func(l *look) map[string]float64 { return one(l.Log.IDs) })
	add(counter, "dedupe_ids_lost_total", "", "Ids that were forgotten before their window was over.",
		func(l *look) map[string]float64 { return one(l.Log.LostIDs) })
	add(gauge, "tenant_streams_open", "tenant", "Open streams of the tenants with most.",
		func(l *look) map[string]float64 {
			return l.byTenant(func(t TenantStats) float64 { return float64(t.Streams) })
		})
	add(counter, "tenant_events_accepted_total", "tenant", "Events that were published to this hub, of the tenants with most streams.",
		func(l *look) map[string]float64 {
			return l.byTenant(func(t TenantStats) float64 { return float64(t.Accepted) })
		})
	return all
}

func one[N int | int64](n N) map[string]float64 { return map[string]float64{"": float64(n)} }

func words[K ~string](counted map[K]int64) map[string]float64 {
	values := make(map[string]float64, len(counted))
	for word, n := range counted {
		values[string(word)] = float64(n)
	}
	return values
}

// kept is a value of the history's, unless nobody knows it now.
func (l *look) kept(n int) map[string]float64 {
	if l.Log.Unknown {
		return nil
	}
	return one(n)
}

func (l *look) byTenant(value func(TenantStats) float64) map[string]float64 {
	values := map[string]float64{}
	for _, t := range l.tenants {
		values[t.Name] = value(t)
	}
	return values
}

func agesOf(stats *engine.Stats) count.Histogram {
	h := count.Histogram{Buckets: stats.Ages[:], Sum: stats.AgeSum.Seconds()}
	for i := range len(stats.Ages) - 1 {
		h.Bounds = append(h.Bounds, engine.AgeBound(i).Seconds())
	}
	return h
}
