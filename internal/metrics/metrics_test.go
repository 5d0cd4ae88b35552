package metrics

import (
	"log/slog"
	"math"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/count"
	"realtimehub/internal/delivery"
	"realtimehub/internal/duty"
	"realtimehub/internal/engine"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/lobby"
	"realtimehub/internal/notices"
	"realtimehub/internal/outbox"
	"realtimehub/internal/serve"
	"realtimehub/internal/webhook"
)

// shown are the lines of a scrape of ours, without comments.
func shown(m *Metrics) (lines []string) {
	w := httptest.NewRecorder()
	m.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, "realtime_") && !strings.HasPrefix(line, "realtime_build_info") {
			lines = append(lines, strings.TrimPrefix(strings.TrimSpace(line), "realtime_"))
		}
	}
	return lines
}

func showing(v Values) *Metrics {
	return New(func() Values { return v }, []string{"InvalidField", "MalformedJSON"}, slog.New(slog.DiscardHandler))
}

// A family shows what the parts have said, by the words that they have said it of.
func TestFamiliesShowWhatTheyWereGiven(t *testing.T) {
	is := is.New(t)
	v := Values{
		Hub: delivery.Stats{
			Streams: 3, Ready: true, Duplicates: 4, Unconfirmed: 5, Unanswered: 6,
			Connects: map[delivery.Resume]int64{"fresh": 7}, Closes: map[delivery.CloseReason]int64{delivery.CloseSlow: 8},
			Accepted: map[event.TargetKind]int64{event.KindTenant: 9}, Dropped: map[delivery.DropReason]int64{delivery.DropRoom: 10},
			Gaps:   map[delivery.GapReason]int64{delivery.GapExpired: 11},
			Engine: engine.Stats{Owed: 12, Delivered: 13},
			Log:    history.Stats{Entries: 14, Bytes: 15, Limit: 16, Memory: 17, CutTenant: 18, CutAll: 19, IDs: 20, LostIDs: 21, Gone: map[history.Kept]int64{history.KeptEpoch: 22}, Faults: map[history.Fault]int64{history.FaultMoved: 23, history.FaultUnread: 51}},
		},
		Online: 24, Away: 25,
		Auth: map[string]int64{"Unauthorized": 26}, Limits: map[string]int64{"publish": 27},
		Complaints: map[serve.Complaint]int64{"panic": 28},
		Tenants:    []delivery.TenantStats{{Name: "acme", Streams: 29, Accepted: 30}},
		Outbox:     outbox.Stats{Items: 34, Untaken: 35, Bytes: 36, Limit: 37, Cut: 38},
		Notices:    notices.Stats{Waiting: 39, Dropped: 40},
		Webhook:    webhook.Stats{Answers: map[webhook.Answer]int64{webhook.AnswerFailed: 39}, Items: 40, Repeated: 41, Lost: 42, Stopped: 43},
		Duties:     duty.Stats{Open: 44, Owed: 45, Acknowledged: 46, Reported: 47, Lost: 48, Unread: 49},
		Lobby:      lobby.Stats{Connections: 31, All: 32, Refused: map[lobby.Bound]int64{"all": 33}, Unpaid: 50},
	}
	lines := shown(showing(v))
	for _, want := range []string{
		"ready 1", "streams_open 3", "events_duplicate_total 4", "events_unconfirmed_total 5", "hub_unanswered_total 6",
		`connects_total{resume="fresh"} 7`, `closes_total{reason="slow"} 8`, `events_accepted_total{target="tenant"} 9`,
		`drops_total{reason="room"} 10`, `gaps_total{reason="expired"} 11`, "queue_bytes 12", "deliveries_total 13",
		"history_events 14", "history_bytes 15", "history_limit_bytes 16", "history_memory_bytes 17",
		`history_cut_total{bound="tenant"} 18`, `history_cut_total{bound="all"} 19`, "dedupe_ids 20", "dedupe_ids_lost_total 21",
		`broker_lost_total{kept="epoch"} 22`, `broker_lost_total{kept="history"} 0`, `broker_faults_total{fault="moved"} 23`, `broker_faults_total{fault="unread"} 51`,
		`presence_profiles{status="online"} 24`, `presence_profiles{status="away"} 25`,
		`auth_failures_total{reason="Unauthorized"} 26`, `rate_limited_total{limit="publish"} 27`, `server_errors_total{kind="panic"} 28`,
		`tenant_streams_open{tenant="acme"} 29`, `tenant_events_accepted_total{tenant="acme"} 30`,
		"outbox_items 34", "outbox_untaken_items 35", "outbox_bytes 36", "outbox_limit_bytes 37", "outbox_cut_total 38", "notices_waiting 39", "notices_dropped_total 40", "outbox_untaken_age_seconds 0",
		`webhook_answers_total{answer="5xx"} 39`, `webhook_answers_total{answer="timeout"} 0`, `webhook_items_total{fate="taken"} 40`,
		"webhook_retries_total 41", `webhook_items_total{fate="lost"} 42`, "webhook_stopped 43",
		"duties_open 44", "duties_owed 45", `duties_recipients_total{state="acknowledged"} 46`, `duties_recipients_total{state="reported"} 47`, `duties_faults_total{fault="lost"} 48`, `duties_faults_total{fault="unread"} 49`,
		"unproven_open 31", "unproven_limit 32", `unproven_cut_total{bound="all"} 33`, "unread_cut_total 50",
	} {
		is.True(slices.Contains(lines, want)) // want
	}
}

// A histogram counts what is at most each bound, and past the last one everything.
func TestHistogramsAddUp(t *testing.T) {
	is := is.New(t)
	v := Values{Hub: delivery.Stats{Replayed: count.Histogram{Bounds: []float64{1, 10}, Buckets: []int64{2, 3, 4}, Sum: 99}}}
	v.Hub.Engine.Ages[0], v.Hub.Engine.Ages[len(v.Hub.Engine.Ages)-1], v.Hub.Engine.AgeSum = 5, 6, 1500*time.Millisecond
	lines := shown(showing(v))
	for _, want := range []string{
		`replay_events_bucket{le="1"} 2`, `replay_events_bucket{le="10"} 5`, `replay_events_bucket{le="+Inf"} 9`, "replay_events_sum 99", "replay_events_count 9",
		`publish_to_write_seconds_bucket{le="+Inf"} 11`, "publish_to_write_seconds_sum 1.5", "publish_to_write_seconds_count 11",
	} {
		is.True(slices.Contains(lines, want)) // want
	}
	ages := agesOf(&v.Hub.Engine)
	is.Equal(len(ages.Bounds)+1, len(ages.Buckets))
	is.True(slices.IsSorted(ages.Bounds) && !math.IsInf(ages.Bounds[len(ages.Bounds)-1], 1))
}

// What is not known is not shown; what is zero is.
func TestWhatIsUnknownIsNotShown(t *testing.T) {
	is := is.New(t)
	has := func(v Values, line string) bool { return slices.Contains(shown(showing(v)), line) }
	is.True(has(Values{}, "history_events 0"))
	is.True(has(Values{}, "ready 0"))
	unknown := Values{Hub: delivery.Stats{Log: history.Stats{Unknown: true, Entries: 1}}}
	for _, line := range shown(showing(unknown)) {
		is.True(!strings.HasPrefix(line, "history_events") && !strings.HasPrefix(line, "history_bytes") && !strings.HasPrefix(line, "history_limit_bytes")) // line
	}
	is.True(has(unknown, "history_memory_bytes 0")) // this hub's own
	for _, line := range shown(showing(Values{Outbox: outbox.Stats{Unknown: true, Items: 1, Since: time.Now()}})) {
		is.True(!strings.HasPrefix(line, "outbox_") || line == "outbox_cut_total 0") // line
	}
	synctest.Test(t, func(t *testing.T) {
		aged := Values{Outbox: outbox.Stats{Since: time.Now()}}
		time.Sleep(90 * time.Second)
		is.True(has(aged, "outbox_untaken_age_seconds 90"))
	})
}

// Refused publishes are counted by code; each code is shown before it has happened, and no
// word makes a series of its own.
func TestRefusedPublishes(t *testing.T) {
	is := is.New(t)
	m := showing(Values{})
	m.RefusePublish("InvalidField")
	m.RefusePublish("InvalidField")
	var codes []string
	for _, line := range shown(m) {
		if strings.HasPrefix(line, "events_refused_total") {
			codes = append(codes, line)
		}
	}
	slices.Sort(codes)
	is.True(slices.Contains(codes, `events_refused_total{code="InvalidField"} 2`))
	is.True(slices.Contains(codes, `events_refused_total{code="MalformedJSON"} 0`))
	before := len(codes)
	m.RefusePublish("somebody's own")
	after := 0
	for _, line := range shown(m) {
		if strings.HasPrefix(line, "events_refused_total") {
			after++
		}
	}
	is.Equal(after, before)
}
