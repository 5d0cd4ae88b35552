package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"realtimehub/internal/allowance"
	"realtimehub/internal/count"
	"realtimehub/internal/delivery"
	"realtimehub/internal/duty"
	"realtimehub/internal/engine"
	"realtimehub/internal/history"
	"realtimehub/internal/webhook"
)

// family is one metric: of one value by each of its label's words, or without a
// label of one; or a histogram.
type family struct {
	desc      *prometheus.Desc
	kind      prometheus.ValueType
	values    func(*Values) map[string]float64
	histogram func(*Values) count.Histogram
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
	add := func(kind prometheus.ValueType, name, label, help string, values func(*Values) map[string]float64) {
		var labels []string
		if label != "" {
			labels = []string{label}
		}
		all = append(all, family{desc: prometheus.NewDesc("realtime_"+name, help, labels, nil), kind: kind, values: values})
	}
	histogram := func(name, help string, of func(*Values) count.Histogram) {
		all = append(all, family{desc: prometheus.NewDesc("realtime_"+name, help, nil, nil), histogram: of})
	}
	const gauge, counter = prometheus.GaugeValue, prometheus.CounterValue

	add(gauge, "ready", "", "1 while the hub takes streams and can store events.",
		func(l *Values) map[string]float64 {
			if l.Hub.Ready {
				return one(1)
			}
			return one(0)
		})
	add(gauge, "streams_open", "", "Streams that are open.",
		func(l *Values) map[string]float64 { return one(l.Hub.Streams) })
	add(gauge, "connections", "transport", "Connections, by the door that they came by; of those that poll also such as ended less than 10 s ago.",
		func(l *Values) map[string]float64 { return words(l.Hub.Transports) })
	add(counter, "connects_total", "resume", "Streams that were opened, by how they began.",
		func(l *Values) map[string]float64 { return words(l.Hub.Connects) })
	add(counter, "closes_total", "reason", "Streams that have ended.",
		func(l *Values) map[string]float64 { return words(l.Hub.Closes) })
	add(counter, "streams_refused_total", "reason", "Streams that were turned away.",
		func(l *Values) map[string]float64 { return words(l.Hub.Refused) })
	add(counter, "events_accepted_total", "target", "Events that were published to this hub, by kind of target.",
		func(l *Values) map[string]float64 { return words(l.Hub.Accepted) })
	add(counter, "events_duplicate_total", "", "Events whose id was already known; they were not delivered again.",
		func(l *Values) map[string]float64 { return one(l.Hub.Duplicates) })
	add(counter, "events_unconfirmed_total", "", "Events that the store did not confirm in time.",
		func(l *Values) map[string]float64 { return one(l.Hub.Unconfirmed) })
	add(counter, "hub_unanswered_total", "", "Questions to other hubs that were not answered.",
		func(l *Values) map[string]float64 { return one(l.Hub.Unanswered) })
	add(counter, "events_refused_total", "code", "Publish calls and lines that were refused; a batch counts once.",
		func(l *Values) map[string]float64 { return words(l.refused) })
	add(counter, "deliveries_total", "", "Events that were written whole to a stream, counted for each stream.",
		func(l *Values) map[string]float64 { return one(l.Hub.Engine.Delivered) })
	add(counter, "drops_total", "reason", "Events that were not written to a stream that they were for, counted for each stream. The log says shed for ephemeral events that were dropped because clients read too slowly.",
		func(l *Values) map[string]float64 { return words(l.Hub.Dropped) })
	add(counter, "gaps_total", "reason", "How often a stream missed events that it cannot get any more.",
		func(l *Values) map[string]float64 { return words(l.Hub.Gaps) })
	add(gauge, "queue_bytes", "", "Bytes of memory for events that clients have not read yet, called owed in the log; an event counts once, however many streams it is for.",
		func(l *Values) map[string]float64 { return one(l.Hub.Engine.Owed) })
	histogram("publish_to_write_seconds", "Time from a publish to the write that hands its event to the kernel; each write call counts once, with its oldest event.",
		func(l *Values) count.Histogram { return agesOf(&l.Hub.Engine) })
	histogram("replay_events", "Events that a resume replayed until the stream had caught up.",
		func(l *Values) count.Histogram { return l.Hub.Replayed })
	add(counter, "auth_failures_total", "reason", "Calls that were refused because of their credential or their origin.",
		func(l *Values) map[string]float64 { return words(l.Auth) })
	add(counter, "rate_limited_total", "limit", "How often a call was refused, or had to wait, because of a rate limit, the limit of doctor's probes or that of memberships.",
		func(l *Values) map[string]float64 { return words(l.Limits) })
	add(gauge, "overloaded", "", "1 while hardly any memory is left, and new streams and events are refused.",
		func(l *Values) map[string]float64 {
			if l.Hub.Overload.Now {
				return one(1)
			}
			return one(0)
		})
	add(gauge, "memory_used_bytes", "", "Memory that a garbage collection cannot free, as of the last one.",
		func(l *Values) map[string]float64 { return one(l.Hub.Overload.Used) })
	add(gauge, "memory_limit_bytes", "", "Go's memory limit; 0: no limit.",
		func(l *Values) map[string]float64 { return one(l.Hub.Overload.Limit) })
	quotas := func(of func(allowance.QuotaStats) int64) func(*Values) map[string]float64 {
		return func(l *Values) map[string]float64 {
			values := map[string]float64{}
			for name, q := range l.Quotas {
				values[name] = float64(of(q))
			}
			return values
		}
	}
	add(gauge, "quota_bytes", "quota", "Bytes of shared memory that are taken.", quotas(allowance.QuotaStats.Total))
	add(gauge, "quota_limit_bytes", "quota", "Limit of that shared memory in bytes; 0: no limit.", quotas(allowance.QuotaStats.All))
	add(counter, "quota_refused_total", "quota", "Refusals because a share was used up.", quotas(allowance.QuotaStats.Refused))
	add(gauge, "unproven_open", "", "Connections without an accepted credential or, in open mode, without a stream: the unproven ones.",
		func(l *Values) map[string]float64 { return one(l.Lobby.Connections) })
	add(gauge, "unproven_limit", "", "How many unproven connections there may be; 0: no limit.",
		func(l *Values) map[string]float64 { return one(l.Lobby.All) })
	add(counter, "unproven_cut_total", "bound", "Unproven connections, and their requests, that were refused or closed.",
		func(l *Values) map[string]float64 { return words(l.Lobby.Refused) })
	add(counter, "unread_cut_total", "", "Connections with an accepted credential that were closed: they brought what was not read, and their caller's share had no room for it.",
		func(l *Values) map[string]float64 { return one(l.Lobby.Unpaid) })
	add(counter, "server_errors_total", "kind", "Errors of Go's HTTP server: connections that could not be accepted, panics, clients that break the protocol.",
		func(l *Values) map[string]float64 { return words(l.Complaints) })
	add(gauge, "presence_profiles", "status", "Profiles that this hub knows to be online or away.",
		func(l *Values) map[string]float64 {
			return map[string]float64{"online": float64(l.Online), "away": float64(l.Away)}
		})
	add(gauge, "history_events", "", "Events in all histories; with a broker, in the one that all hubs share.",
		func(l *Values) map[string]float64 { return l.kept(l.Hub.Log.Entries) })
	add(gauge, "history_bytes", "", "Bytes that all histories take; with a broker, on its disk.",
		func(l *Values) map[string]float64 { return l.kept(int(l.Hub.Log.Bytes)) })
	add(gauge, "history_limit_bytes", "", "Bytes that all histories together may take; 0: no limit.",
		func(l *Values) map[string]float64 { return l.kept(int(l.Hub.Log.Limit)) })
	add(gauge, "history_memory_bytes", "", "Bytes of memory that histories take in this hub; with a broker, only what the hub keeps of them.",
		func(l *Values) map[string]float64 { return one(l.Hub.Log.Memory) })
	add(counter, "history_cut_total", "bound", "Events that were removed before their time, because their tenant, or all tenants together, exceeded the limit on bytes.",
		func(l *Values) map[string]float64 {
			return map[string]float64{"tenant": float64(l.Hub.Log.CutTenant), "all": float64(l.Hub.Log.CutAll)}
		})
	add(counter, "broker_lost_total", "kept", "How often this hub learned that the store had lost data of all tenants.",
		func(l *Values) map[string]float64 {
			return words(map[history.Kept]int64{history.KeptHistory: l.Hub.Log.Gone[history.KeptHistory], history.KeptEpoch: l.Hub.Log.Gone[history.KeptEpoch], history.KeptMembers: l.Hub.Log.Gone[history.KeptMembers]})
		})
	add(counter, "broker_faults_total", "fault", "Faults of the store that this hub noticed.",
		func(l *Values) map[string]float64 {
			values := map[string]float64{}
			for _, fault := range []history.Fault{history.FaultHistory, history.FaultMembership, history.FaultRefused, history.FaultMoved, history.FaultUnread, history.FaultOther} {
				values[string(fault)] = float64(l.Hub.Log.Faults[fault])
			}
			return values
		})
	add(gauge, "dedupe_ids", "", "Event ids that this hub remembers to recognise duplicates; 0 with a broker, whose servers remember them.",
		func(l *Values) map[string]float64 { return one(l.Hub.Log.IDs) })
	add(counter, "dedupe_ids_lost_total", "", "Event ids that were forgotten before their dedupe window ended.",
		func(l *Values) map[string]float64 { return one(l.Hub.Log.LostIDs) })
	add(gauge, "duties_open", "", "Events with a deadline that is still to come, as far as this hub judges them.",
		func(l *Values) map[string]float64 { return one(l.Duties.Open) })
	add(gauge, "duties_owed", "", "Recipients of those events who have neither acknowledged them nor been reported.",
		func(l *Values) map[string]float64 { return one(l.Duties.Owed) })
	add(counter, "duties_recipients_total", "state", "Recipients of events whose deadline has come, by what came of them; counted by the hub that judges.",
		func(l *Values) map[string]float64 {
			return words(map[duty.State]int64{duty.Acknowledged: l.Duties.Acknowledged, duty.Reported: l.Duties.Reported})
		})
	add(counter, "duties_faults_total", "fault", "Acknowledgements that could not be kept while the store was away, whose people are reported nonetheless, and what other hubs kept that was not understood.",
		func(l *Values) map[string]float64 {
			return words(map[string]int64{"lost": l.Duties.Lost, "unread": l.Duties.Unread})
		})
	add(gauge, "outbox_items", "", "Items that are kept for services.", func(l *Values) map[string]float64 { return l.outbox(l.Outbox.Items) })
	add(gauge, "outbox_untaken_items", "", "Items that the webhook has not taken yet; without a webhook all that are kept.",
		func(l *Values) map[string]float64 { return l.outbox(l.Outbox.Untaken) })
	add(gauge, "outbox_untaken_age_seconds", "", "Age of the oldest item that the webhook has not taken yet; 0: there is none.",
		func(l *Values) map[string]float64 {
			switch {
			case l.Outbox.Unknown:
				return nil
			case l.Outbox.Since.IsZero():
				return one(0)
			}
			return map[string]float64{"": time.Since(l.Outbox.Since).Seconds()}
		})
	add(gauge, "outbox_bytes", "", "Bytes that the items take.", func(l *Values) map[string]float64 { return l.outbox(int(l.Outbox.Bytes)) })
	add(gauge, "outbox_limit_bytes", "", "Bytes that they may take; 0: no limit.", func(l *Values) map[string]float64 { return l.outbox(int(l.Outbox.Limit)) })
	add(counter, "outbox_cut_total", "", "Items that were removed before their time, for want of room.",
		func(l *Values) map[string]float64 { return one(l.Outbox.Cut) })
	add(gauge, "notices_waiting", "", "What services are to be told of people, rooms and connections, and the outbox has yet to take.",
		func(l *Values) map[string]float64 { return one(l.Notices.Waiting) })
	add(counter, "notices_dropped_total", "", "What services are not told of them, for want of room.",
		func(l *Values) map[string]float64 { return one(l.Notices.Dropped) })
	add(counter, "webhook_answers_total", "answer", "Attempts to have a batch taken, by what became of them.",
		func(l *Values) map[string]float64 {
			values := map[string]float64{}
			for _, answer := range webhook.Answers() {
				values[string(answer)] = float64(l.Webhook.Answers[answer])
			}
			return values
		})
	add(counter, "webhook_retries_total", "", "Attempts that were not the first of their batch.",
		func(l *Values) map[string]float64 { return one(l.Webhook.Repeated) })
	add(counter, "webhook_items_total", "fate", "Items that the webhook took, and those that the outbox no longer had when it was their turn.",
		func(l *Values) map[string]float64 {
			return map[string]float64{"taken": float64(l.Webhook.Items), "lost": float64(l.Webhook.Lost)}
		})
	add(gauge, "webhook_stopped", "", "Endpoints that have answered 410, to which nothing is sent until the hub starts again.",
		func(l *Values) map[string]float64 { return one(l.Webhook.Stopped) })
	add(gauge, "tenant_streams_open", "tenant", "Open streams of the tenants with most.",
		func(l *Values) map[string]float64 {
			return l.byTenant(func(t delivery.TenantStats) float64 { return float64(t.Streams) })
		})
	add(counter, "tenant_events_accepted_total", "tenant", "Events that were published to this hub, of the tenants with most streams.",
		func(l *Values) map[string]float64 {
			return l.byTenant(func(t delivery.TenantStats) float64 { return float64(t.Accepted) })
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
func (v *Values) kept(n int) map[string]float64 {
	if v.Hub.Log.Unknown {
		return nil
	}
	return one(n)
}

// outbox is a value of the outbox's, unless nobody knows it now.
func (v *Values) outbox(n int) map[string]float64 {
	if v.Outbox.Unknown {
		return nil
	}
	return one(n)
}

func (v *Values) byTenant(value func(delivery.TenantStats) float64) map[string]float64 {
	values := map[string]float64{}
	for _, t := range v.Tenants {
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
