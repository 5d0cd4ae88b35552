package journal

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/natstest"
)

// Somebody waits for a place, and the history begins anew: the place means nothing there,
// and what comes is handed over.
func TestWhoWaitsForAPlaceOfAnotherHistory(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	proxy := b.Proxies(t)[0]
	one, two := open(t, b, 0, "one", settings), openAt(t, proxy.URL(), "two", settings)
	two.attach("k")
	before := two.Epoch()
	proxy.Rule(func(m *natstest.Message) (v natstest.Verdict) {
		v.Drop = strings.HasPrefix(m.Subject, settings.Prefix+".live.") || strings.Contains(m.Subject, "DIRECT.GET")
		return v
	})
	last := it("k", "29")
	for i := range 29 {
		one.append(it("k", fmt.Sprint(i)))
	}
	one.append(last)
	ctx, leave := context.WithCancel(t.Context())
	waits := make(chan error)
	go func() { waits <- two.Reach(ctx, "k", before, last.Seq) }()
	js, err := jetstream.New(one.nc)
	is.NoErr(err)
	is.NoErr(js.DeleteStream(t.Context(), settings.Prefix+"_journal"))
	await(t, func() bool { return two.Epoch() != before && one.Epoch() == two.Epoch() })
	proxy.Rule(nil)
	for i := range 3 {
		one.append(it("k", fmt.Sprint("new", i)))
	}
	two.await("k", "new0 new1 new2")
	leave()
	<-waits
}
