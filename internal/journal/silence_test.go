package journal

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/matryer/is"

	"realtimehub/internal/natstest"
)

// isLive says whether a message is one of some data that the broker republishes.
func isLive(m *natstest.Message, data ...string) bool {
	for _, d := range data {
		if m.FromServer && strings.HasPrefix(m.Subject, settings.Prefix+".live.") && string(m.Data) == d {
			return true
		}
	}
	return false
}

// A gap is not skipped because a question about it, or an answer or a part of one, gets
// lost: what does not answer has not said that there is nothing.
func TestNoAnswerIsNotNothing(t *testing.T) {
	for name, lost := range map[string]func(*natstest.Message) bool{
		"the leader is not asked for the stream": func(m *natstest.Message) bool { return !m.FromServer && strings.Contains(m.Subject, "STREAM.INFO") },
		"the leader is not asked for a message":  func(m *natstest.Message) bool { return !m.FromServer && strings.Contains(m.Subject, "STREAM.MSG.GET") },
		"a replica is not asked":                 func(m *natstest.Message) bool { return !m.FromServer && strings.Contains(m.Subject, "DIRECT.GET") },
		"the leader does not answer": func(m *natstest.Message) bool {
			return strings.Contains(string(m.Data), `"type":"io.nats.jetstream.api.v1.stream_info_response"`)
		},
		"a replica's answer lacks its first part": func(m *natstest.Message) bool { return m.Header.Get("Nats-Num-Pending") != "" && string(m.Data) == "b" },
		"a replica's answer lacks a part":         func(m *natstest.Message) bool { return m.Header.Get("Nats-Num-Pending") != "" && string(m.Data) == "c" },
		"a replica's answer lacks its last part":  func(m *natstest.Message) bool { return m.Header.Get("Nats-Num-Pending") != "" && string(m.Data) == "d" },
		"a replica's answer has no end":           func(m *natstest.Message) bool { return m.Header.Get("Status") == "204" },
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			b := natstest.Start(t, 1)
			proxy := b.Proxies(t)[0]
			one, two := open(t, b, 0, "one", settings), openAt(t, proxy.URL(), "two", settings)
			two.attach("k")
			one.append(it("k", "a"))
			two.await("k", "a")
			var gap, silent atomic.Bool
			proxy.Rule(func(m *natstest.Message) (v natstest.Verdict) {
				if isLive(m, "b", "c", "d") {
					gap.Store(true)
					v.Drop = true
				}
				if gap.Load() && lost(m) && silent.CompareAndSwap(false, true) {
					v.Drop = true
				}
				return v
			})
			for _, data := range []string{"b", "c", "d", "e"} {
				one.append(it("k", data))
			}
			two.await("k", "a b c d e")
			is.Equal(len(two.lost), 0)
			if name != "the leader is not asked for a message" { // it need not be
				is.True(silent.Load())
			}
		})
	}
}

// The last messages of several keys are lost, and of the sweep's answer that would tell one
// part: it is asked again.
func TestSweepWithAnAnswerThatLacks(t *testing.T) {
	is := is.New(t)
	b := natstest.Start(t, 1)
	proxy := b.Proxies(t)[0]
	one, two := open(t, b, 0, "one", settings), openAt(t, proxy.URL(), "two", settings)
	var keys []string
	for i := range 5 {
		keys = append(keys, fmt.Sprint("k", i))
		two.attach(keys[i])
	}
	var lacks atomic.Int64
	proxy.Rule(func(m *natstest.Message) (v natstest.Verdict) {
		v.Drop = isLive(m, "last") || string(m.Data) == "last" && m.Header.Get("Nats-Num-Pending") != "" && lacks.Add(1) == 3
		return v
	})
	for _, key := range keys {
		one.append(it(key, "last"))
	}
	for _, key := range keys {
		two.await(key, "last")
	}
	is.True(lacks.Load() > 3)
}

// A stream that is gone is not one without messages.
func TestAGoneStreamIsNotAnEmptyOne(t *testing.T) {
	is := is.New(t)
	b := natstest.Start(t, 1)
	one := open(t, b, 0, "one", settings)
	gone, err := newStream(one.nc, "there_is_none")
	is.NoErr(err)
	defer close(gone.ended)
	_, err = gone.last(t.Context(), "x")
	is.True(err != nil)
	_, err = gone.next(t.Context(), "x", 0, 10)
	is.True(err != nil)
	_, err = gone.subjectOf(t.Context(), 1)
	is.True(err != nil)
	last, err := one.last(t.Context(), one.subject("k"))
	is.NoErr(err)
	is.Equal(last, uint64(0))
}
