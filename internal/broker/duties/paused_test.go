package duties

import (
	"context"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/broker/stream"
	"realtimehub/internal/duty"
	"realtimehub/internal/event"
	"realtimehub/internal/outbox"
	"realtimehub/internal/testkit"
)

// pause holds up a judge as it is about to report, as a process that is stopped is.
type pause struct {
	nobody
	begun, end chan struct{}
}

// Explain implements duty.People.
func (p *pause) Explain(ctx context.Context, d *duty.Duty, of []event.Profile) []duty.Person {
	close(p.begun)
	<-p.end
	return p.nobody.Explain(ctx, d, of)
}

// judging has a judge of its own read all that is kept and judge, as one who has the lease does;
// deaf has it read nothing more.
func judging(t *testing.T, k *Keeper, people duty.People) (judged func() bool, deaf func()) {
	t.Helper()
	reads, deaf := context.WithCancel(t.Context())
	read := &reading{keeper: k, moved: make(chan struct{})}
	cfg := k.duty
	cfg.People, cfg.Settle, cfg.Over, cfg.Early, cfg.AtOnce = people, func(context.Context) error { return nil }, k.over, k.early, judgedAtOnce
	read.judge = duty.NewJudge(cfg)
	read.readAll(t, reads)
	go read.judge.Run(t.Context())
	return func() bool { return read.judge.Stats().Open == 0 }, deaf
}

// A hub is stopped as it reports who owes, and wakes when another has the lease and has judged: the
// service is told once, and what came of the event stays as the other has it, of whom the service
// was told.
func TestAJudgeThatIsPaused(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	k := reader(t)
	d := dutyOf(1, time.Second, "a", "b", "c")
	openDuty(t, k, d)
	acknowledgeAll(t, k, 1, "c")
	paused := &pause{begun: make(chan struct{}), end: make(chan struct{})}
	pausedJudged, deaf := judging(t, k, paused)
	<-paused.begun
	deaf()

	acknowledgeAll(t, k, 1, "a") // after the deadline
	judged, _ := judging(t, k, nobody{})
	testkit.Eventually(t, judged)
	states := func() string {
		last, err := k.stream.Leader(t.Context(), stream.Get{Last: k.subjectOf("acme", d.At, 0)})
		is.NoErr(err)
		record, err := k.decode(last.Subject, last.Data)
		is.NoErr(err)
		is.True(record.over)
		text := ""
		for _, r := range record.came {
			text += r.Profile.ID + " " + string(r.State) + "; "
		}
		return text
	}
	told := func() int {
		page, err := k.duty.Box.Read(t.Context(), "acme", outbox.Query{Limit: 10})
		is.NoErr(err)
		return len(page.Items)
	}
	is.Equal(states(), "a acknowledged; b reported; c acknowledged; ")
	is.Equal(told(), 1)
	close(paused.end)
	testkit.Eventually(t, pausedJudged)
	is.Equal(states(), "a acknowledged; b reported; c acknowledged; ")
	is.Equal(told(), 1)
}
