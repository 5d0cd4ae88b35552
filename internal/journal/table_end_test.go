package journal

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"

	"realtimehub/internal/natstest"
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
		for _, q := range []string{"", "test.row.>", "test.row." + token("topic") + ".>"} { // as all is now
			question := []byte(`{"last_by_subj":"` + q + `"}`)
			if q == "" {
				question = nil // INFO's
			}
			msg, err := other.Request(subject, question, 5*time.Second)
			is.NoErr(err)
			answers[q] = msg.Data
		}
		_, err = other.Subscribe(subject, func(msg *nats.Msg) {
			var q get
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
	is.True(errors.Is(err, errStale))
	is.True(errors.Is(reads.Look(t.Context()), errStale))
}
