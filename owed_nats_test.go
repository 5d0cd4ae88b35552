package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/hubtest"
	"realtimehub/internal/natstest"
)

// What is owed is kept anew as the hub ends that judges it, where the broker has lost it since:
// nobody else knows of it.
func TestWhatIsOwedOutlivesTheHubThatKnowsIt(t *testing.T) {
	t.Parallel()
	alone(t, "it makes its own")
	is := is.New(t)
	b := natstest.Start(t, 1)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	listening, ended := make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		settings := []string{"REALTIME_ADDR=127.0.0.1:0", "REALTIME_DRAIN=0", "REALTIME_NATS_URL=" + b.URL(0), "REALTIME_NATS_PREFIX=owed"}
		ended <- run(ctx, settings, io.Discard, func(at net.Addr) { listening <- at })
	}()
	h := hubtest.Hub{URL: "http://" + (<-listening).String(), Client: hubtest.CheckedClient(t, &http.Transport{})}
	defer h.Client.CloseIdleConnections()
	status, _ := h.Post(t, "/v1/events", `{"tenantId":"acme","type":"a.b","payload":1,"deadline":"1h","target":{"kind":"profile","profiles":["nobody"]}}`)
	is.Equal(status, http.StatusAccepted)
	eventually(t, func() bool { return h.Metric(t, "realtime_duties_open") == 1 })

	js, err := jetstream.New(b.Connect(t, 0))
	is.NoErr(err)
	is.NoErr(js.DeleteStream(t.Context(), "owed_duties"))
	stop()
	is.NoErr(<-ended)
	kept, err := js.Stream(t.Context(), "owed_duties")
	is.NoErr(err)
	info, err := kept.Info(t.Context(), jetstream.WithSubjectFilter("owed.duty.open.>"))
	is.NoErr(err)
	is.Equal(len(info.State.Subjects), 1)
}
