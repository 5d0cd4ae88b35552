package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"realtimehub/internal/access"
	"realtimehub/internal/allowance"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/history"
	"realtimehub/internal/plan"
	"realtimehub/internal/room"
	"realtimehub/internal/settings"
	"realtimehub/internal/sse"
)

// newBenchHub has streams that nobody serves: what they are owed is shed, so
// that only the hub's own work is measured.
func newBenchHub(b *testing.B, streams int) (*Hub, *Presence) {
	b.Helper()
	hub := NewHub(HubConfig{Retry: time.Second, StreamBuffer: 4 << 10, Log: history.NewMemory(testLimits), Resolver: room.Own{}, Logger: slog.New(slog.DiscardHandler), Quotas: allowance.New(plan.Of(1 << 40))}, PresenceConfig{Audience: settings.AudienceTenant}, nil, Reporting{})
	for i := range streams {
		if _, err := hub.streams.Connect(context.Background(), delivery.Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: event.Profile{Type: "user", ID: fmt.Sprint(i)}}); err != nil {
			b.Fatal(err)
		}
	}
	return hub, hub.presence
}

const benchEvent = `{"tenantId":"acme","type":"load.test","payload":"%s","target":%s,"ephemeral":true}`

func benchBody(target string) []byte {
	return fmt.Appendf(nil, benchEvent, strings.Repeat("0123456789", 20), target)
}

func BenchmarkDecodeEvent(b *testing.B) {
	body := benchBody(`{"kind":"profile","profiles":["user:1"]}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeEvent(body, nil, 64<<10); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPublish(b *testing.B) {
	for _, c := range []struct {
		name, target string
		streams      int
	}{
		{"profile", `{"kind":"profile","profiles":["user:1"]}`, 10},
		{"tenant of 1000", `{"kind":"tenant"}`, 1000},
	} {
		b.Run(c.name, func(b *testing.B) {
			hub, _ := newBenchHub(b, c.streams)
			body := benchBody(c.target)
			b.ReportAllocs()
			for b.Loop() {
				e, err := DecodeEvent(body, nil, 64<<10)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := hub.Publish(context.Background(), []*event.Event{e}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkPublishHandler(b *testing.B) {
	hub, _ := newBenchHub(b, 10)
	handler := NewAPI(hub, openDoor(b), access.NewRates(access.RatesConfig{}), APIConfig{MaxEventBytes: 60 << 10, MaxBodyBytes: 1 << 20, Logger: slog.New(slog.DiscardHandler)}).Handler()
	body := benchBody(`{"kind":"profile","profiles":["user:1"]}`)
	b.ReportAllocs()
	for b.Loop() {
		r := httptest.NewRequest("POST", "/v1/events", bytes.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != 202 {
			b.Fatal(w.Code, w.Body)
		}
	}
}

func BenchmarkConnect(b *testing.B) {
	hub, _ := newBenchHub(b, 0)
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		n++
		if _, err := hub.streams.Connect(context.Background(), delivery.Subscription{Encoding: sse.Encoding{}, Tenant: "acme", Profile: event.Profile{Type: "user", ID: fmt.Sprint(n)}}); err != nil {
			b.Fatal(err)
		}
	}
}
