package duties

import (
	"context"
	"encoding/json"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/event"
	"realtimehub/internal/natstest"
)

// While clients acknowledge without a break, what they had given before is kept, and deadlines are
// judged: nobody waits for a moment in which nothing comes.
func TestAcknowledgementsWithoutABreak(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	proxy := natstest.Start(t, 1).Proxies(t)[0]
	k := readerAt(t, proxy.URL())
	var kept atomic.Int64
	proxy.Rule(func(m *natstest.Message) natstest.Verdict {
		if !m.FromServer && strings.HasPrefix(m.Subject, k.prefix+".ack.") {
			kept.Add(1)
			k.Acknowledge(ackOf("b", 1)) // before the broker has answered
		}
		return natstest.Verdict{}
	})
	k.Acknowledge(ackOf("a", 1))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	is.NoErr(k.Flush(ctx))
	is.True(kept.Load() > 0)
}

// A word says what the connection wanted: all, some types, or nothing.
func TestWhatAConnectionWanted(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		patterns []string
		wants    bool
	}{
		"all":     {nil, true},
		"some":    {[]string{"a.*"}, true},
		"others":  {[]string{"x.*"}, false},
		"nothing": {[]string{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			a := ackOf("a", 1)
			var errs []error
			a.Types, errs = event.ParseFilter(tc.patterns)
			is.Equal(len(errs), 0)
			is.Equal(a.Types.Wants("a.b"), tc.wants)
			data, err := json.Marshal(wordOf(a))
			is.NoErr(err)
			var w word
			is.NoErr(json.Unmarshal(data, &w))
			read, err := w.acknowledgement()
			is.NoErr(err)
			is.Equal(read.Types.Wants("a.b"), tc.wants)
		})
	}
}
