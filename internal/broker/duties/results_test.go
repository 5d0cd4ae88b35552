package duties

import (
	"fmt"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"realtimehub/internal/broker/stream"
	"realtimehub/internal/duty"
	"realtimehub/internal/event"
)

// Of an event's parts some are over and some are not, and the hub that judges began to do so
// meanwhile: whoever asks gets all of them, once.
func TestPartsOfWhichSomeAreOver(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	k := reader(t)
	var all []string
	for i := range 3 * mostOfPart {
		all = append(all, fmt.Sprintf("p%05d", i))
	}
	d := dutyOf(1, time.Hour, all...)
	openDuty(t, k, d)
	over := d.Parts(mostOfPart)[1]
	came := duty.Results{}
	for _, p := range over.Recipients {
		came.List = append(came.List, duty.Result{Profile: p, State: duty.Reported, At: time.Now()})
	}
	judgeNow(t, k, over, came)
	acknowledgeAll(t, k, 1, all[0], all[len(all)-1])
	k.judge.Store(judgedBy(t, k).judge)

	var got []event.Profile
	states := map[duty.State]int{}
	for q := (duty.Query{Limit: 700}); ; {
		page, err := k.Results(t.Context(), "acme", d.At, q)
		is.NoErr(err)
		is.Equal(page.Counts, map[duty.State]int{duty.Acknowledged: 2, duty.Reported: mostOfPart, duty.Owed: 2*mostOfPart - 2})
		for _, r := range page.List {
			got, q.After = append(got, r.Profile), r.Profile
			states[r.State]++
		}
		if !page.More {
			break
		}
	}
	is.Equal(got, d.Recipients)
	is.Equal(states, map[duty.State]int{duty.Acknowledged: 2, duty.Reported: mostOfPart, duty.Owed: 2*mostOfPart - 2})

	k.judge.Store(duty.NewJudge(k.duty)) // it has read nothing yet
	page, err := k.Results(t.Context(), "acme", d.At, duty.Query{Limit: 1})
	is.NoErr(err)
	is.Equal(page.Counts, map[duty.State]int{duty.Reported: mostOfPart, duty.Owed: 2 * mostOfPart})
}

// What came of events fills no disk: past its bound it is kept as long as their publishers may
// repeat them, and no longer.
func TestResultsAreBounded(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	k := reader(t)
	k.duty.Repeats = time.Hour
	kept := func(place uint64) string {
		d := dutyOf(place, time.Hour, "a")
		openDuty(t, k, d)
		_, err := judgedBy(t, k).same(t.Context()) // looks at what is kept
		is.NoErr(err)
		judgeNow(t, k, d, duty.Results{})
		last, err := k.stream.Leader(t.Context(), stream.Get{Last: k.subjectOf("acme", d.At, 0)})
		is.NoErr(err)
		header, err := nats.DecodeHeadersMsg(last.Header)
		is.NoErr(err)
		return header.Get(jetstream.MsgTTLHeader)
	}
	k.cfg.Bytes = 1 << 20
	is.Equal(kept(1), stream.FormatTTL(24*time.Hour))
	k.cfg.Bytes = 1
	is.Equal(kept(2), stream.FormatTTL(time.Hour))
	k.duty.Repeats = 0
	is.Equal(kept(3), stream.FormatTTL(5*time.Minute))
}
