package journal

import (
	"fmt"
	"strings"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/natstest"
)

// A replica is behind, and so is who thinks that it leads still: a message that neither has
// yet is not taken for one that has gone, nor is that written down for all.
func TestWhatNobodyAskedHasYetIsNotGone(t *testing.T) {
	is := is.New(t)
	b := natstest.Start(t, 1)
	proxy := b.Proxies(t)[0]
	one := openAt(t, proxy.URL(), "one", settings)
	item := it("k", "a")
	one.append(item)
	proxy.Rule(func(m *natstest.Message) (v natstest.Verdict) {
		switch {
		case m.FromServer:
		case strings.Contains(m.Subject, "DIRECT.GET"):
			v.Instead = []byte(`{"seq":1,"next_by_subj":"test.ev.NOBODY","batch":1}`)
		case strings.Contains(m.Subject, "MSG.GET.test_journal") && strings.Contains(string(m.Data), fmt.Sprintf(`"seq":%d`, item.Seq)):
			v.Instead = []byte(`{"seq":999999999}`)
		}
		return v
	})
	_, err := one.Span(t.Context(), "k")
	is.True(err != nil)
	proxy.Rule(nil)
	span, err := one.Span(t.Context(), "k")
	is.NoErr(err)
	is.True(span.Oldest < item.Seq)
}
