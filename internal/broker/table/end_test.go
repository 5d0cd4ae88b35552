package table

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"

	"realtimehub/internal/broker/stream"
	"realtimehub/internal/natstest"
	"realtimehub/internal/testkit"
)

// All that one reads from is a server that leads no more and does not know it, and a replica
// that is as far behind. What a topic had before is not taken for all of it. (Here a client
// answers as such a server would.)
func TestWhoLedBeforeDoesNotEndATable(t *testing.T) {
	is := is.New(t)
	b := natstest.Start(t, 3)
	proxy := natstest.StartProxy(t, b.URL(1))
	writes, reads := openTableOf(t, b.URL(0), 3), openTableOf(t, proxy.URL(), 3)
	_, err := writes.Put(t.Context(), "topic", "group", 0, []Row{{Name: "old", Data: []byte("data")}}, false)
	is.NoErr(err)

	const stale = "Stale"
	other := b.Connect(t, 1)
	say := func(msg *nats.Msg, data []byte, status string) {
		msg.RespondMsg(&nats.Msg{Header: nats.Header{stale: {"yes"}, "Status": {status}}, Data: data})
	}
	for _, kind := range []string{"STREAM.MSG.GET", "STREAM.INFO", "DIRECT.GET"} {
		subject, answers := "$JS.API."+kind+".test_table", map[string][]byte{}
		for _, q := range []string{"", "test.row.>", "test.row." + stream.Token("topic") + ".>"} { // as all is now
			question := []byte(`{"last_by_subj":"` + q + `"}`)
			if q == "" {
				question = nil // INFO's
			}
			msg, err := other.Request(subject, question, 5*time.Second)
			is.NoErr(err)
			answers[q] = msg.Data
		}
		_, err = other.Subscribe(subject, func(msg *nats.Msg) {
			var q stream.Get
			json.Unmarshal(msg.Data, &q)
			switch {
			case kind == "DIRECT.GET":
				say(msg, nil, "404")
			case q.Next != "":
				say(msg, []byte(`{"error":{"code":404,"err_code":10037,"description":"no message found"}}`), "")
			default:
				say(msg, answers[q.Last], "")
			}
		})
		is.NoErr(err)
	}
	is.NoErr(other.Flush())
	proxy.Rule(func(m *natstest.Message) natstest.Verdict {
		answer := m.FromServer && strings.HasPrefix(m.Subject, "_INBOX.") && m.Header.Get(stale) == ""
		return natstest.Verdict{Drop: answer && (m.Header.Get("Nats-Stream") != "" || m.Header.Get("Nats-Num-Pending") != "" ||
			strings.Contains(string(m.Data), "stream_msg_get_response") || strings.Contains(string(m.Data), "stream_info_response"))}
	})

	_, err = writes.Put(t.Context(), "topic", "another", 0, []Row{{Name: "new", Data: []byte("data")}}, false)
	is.NoErr(err)
	last, err := reads.Last(t.Context(), "topic")
	if err == nil {
		err = reads.Read(t.Context(), "topic", 0, last, func([]Row) error { return nil })
	}
	is.True(errors.Is(err, stream.ErrStale))
	is.True(errors.Is(reads.Look(t.Context()), stream.ErrStale))
}

// The table has lost its end, and whoever notices first puts more into it than was lost: who
// looks after that notices as well, and does not take what is at places that it had read for
// what it knows.
func TestAnEndThatWasLostIsNoticedByAll(t *testing.T) {
	is := is.New(t)
	b := natstest.Start(t, 1)
	one, two := openTable(t, b.URL(0)), openTable(t, b.URL(0))
	lose := b.Snapshot(t)
	testkit.Eventually(t, func() bool { return one.Look(t.Context()) == nil && two.Look(t.Context()) == nil })
	_, err := one.Put(t.Context(), "lost", "g", 0, rowsOf(3), false)
	is.NoErr(err)
	one.lookNow(t)
	two.lookNow(t)
	lose()
	b.Restart(t, 0)
	testkit.Eventually(t, func() bool { return one.Look(t.Context()) == nil })
	is.Equal(one.lost, 1)
	_, err = one.Put(t.Context(), "new", "g", 0, rowsOf(9), false)
	is.NoErr(err)
	testkit.Eventually(t, func() bool { return two.Look(t.Context()) == nil })
	is.Equal(two.lost, 1)
	is.Equal(one.lives, two.lives)
	is.True(two.lives[0] != two.lives[1]) // places of the one are not taken for places of the other
	three := openTable(t, b.URL(0))
	is.Equal(three.lives, two.lives[1:]) // who comes then adapts the table, and changes nothing of that
	two.lookNow(t)
	is.Equal(two.lost, 1)
}
