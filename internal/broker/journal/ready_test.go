package journal

import (
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"

	"realtimehub/internal/natstest"
)

// While servers have no leader of their own, each that does not lead the stream says so at
// once, and the one that leads it does what was asked. A client in between says the same
// here, sooner than the server.
func TestWhoDoesNotLeadIsNotBelieved(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	u := open(t, b, 0, "one", settings)
	const refusal = `{"type":"io.nats.jetstream.api.v1.stream_purge_response","error":{"code":503,"err_code":10008,"description":"JetStream system temporarily unavailable"}}`
	other := b.Connect(t, 0)
	sub, err := other.Subscribe("$JS.API.STREAM.PURGE."+settings.Prefix+"_journal", func(msg *nats.Msg) { msg.Respond([]byte(refusal)) })
	is.NoErr(err)
	is.NoErr(other.Flush())
	const betterWord = 300 * time.Millisecond // as the stream has it
	done := 0
	for range 200 {
		begun := time.Now()
		if err := u.stream.PurgeNothing(t.Context(), settings.Prefix+".cut.none"); err == nil {
			done++
		} else {
			is.True(time.Since(begun) >= betterWord) // a busy machine's leader was too late
		}
	}
	is.True(done > 0)
	is.NoErr(sub.Unsubscribe())
	is.NoErr(other.Flush())
	is.NoErr(u.stream.PurgeNothing(t.Context(), settings.Prefix+".cut.none"))
}
