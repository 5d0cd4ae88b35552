package stream

import (
	"context"
	"log/slog"
	"strings"
	"testing"

	"github.com/matryer/is"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/natstest"
)

// made is what making a stream says, once the first try is over.
func made(t *testing.T, nc *nats.Conn) error {
	t.Helper()
	s, err := New(nc, "test_journal")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	tried := slog.New(slog.NewTextHandler(writer(cancel), nil)) // what it says before it tries again
	return s.Make(ctx, tried, func(ctx context.Context, js jetstream.JetStream) error {
		_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: s.Name, Subjects: []string{"test.ev.*"}})
		return err
	})
}

type writer func()

func (w writer) Write(p []byte) (int, error) { w(); return len(p), nil }

// Whether a backup is being restored is asked, and the answer is lost: nothing is made, which a
// restore would find in its way.
func TestNothingIsMadeWhileItIsUnknownWhetherABackupIsRestored(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	broker := natstest.Start(t, 1)
	proxy := broker.Proxies(t)[0]
	proxy.Rule(func(m *natstest.Message) natstest.Verdict {
		return natstest.Verdict{Drop: !m.FromServer && strings.HasSuffix(m.Subject, "STREAM.INFO.test"+restoringSuffix)}
	})
	nc := natstest.Connect(t, proxy.URL())
	is.True(made(t, nc) != nil)
	js, err := jetstream.New(broker.Connect(t, 0))
	is.NoErr(err)
	_, err = js.Stream(t.Context(), "test_journal")
	is.Equal(err, jetstream.ErrStreamNotFound)
}

// Who may ask for its own streams alone makes them: it cannot know of a restore.
func TestWhoMayNotAskOfARestoreMakesItsStreams(t *testing.T) {
	t.Parallel()
	broker := natstest.Start(t, 1, func(o *server.Options) {
		o.Users = []*server.User{{Username: "hub", Password: "secret", Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Deny: []string{"$JS.API.STREAM.INFO.*" + restoringSuffix}},
		}}, {Username: "other", Password: "secret"}}
		o.NoAuthUser = "other"
	})
	is.New(t).NoErr(made(t, broker.Connect(t, 0, nats.UserInfo("hub", "secret"))))
}
