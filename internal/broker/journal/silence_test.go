package journal

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matryer/is"

	"realtimehub/internal/broker/stream"
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
	t.Parallel()
	info := func(m *natstest.Message) bool {
		return strings.Contains(string(m.Data), `"type":"io.nats.jetstream.api.v1.stream_info_response"`)
	}
	part := func(data string) func(*natstest.Message) bool {
		return func(m *natstest.Message) bool {
			return m.Header.Get("Nats-Num-Pending") != "" && string(m.Data) == data
		}
	}
	asked := func(what string) func(*natstest.Message) bool {
		return func(m *natstest.Message) bool { return !m.FromServer && strings.Contains(m.Subject, what) }
	}
	for name, test := range map[string]struct {
		time int64 // which of them is lost
		lost func(*natstest.Message) bool
	}{
		"the leader is not asked for the stream":       {1, asked("STREAM.INFO")},
		"the leader is not asked for the stream again": {2, asked("STREAM.INFO")},
		"the leader is not asked for a message":        {1, asked("STREAM.MSG.GET")},
		"a replica is not asked":                       {1, asked("DIRECT.GET")},
		"the leader does not answer":                   {1, info},
		"the leader does not answer again":             {2, info},
		"a replica's answer lacks its first part":      {1, part("b")},
		"a replica's answer lacks a part":              {1, part("c")},
		"a replica's answer lacks its last part":       {1, part("d")},
		"a replica's answer has no end":                {1, func(m *natstest.Message) bool { return m.Header.Get("Status") == "204" }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			is := is.New(t)
			b := natstest.Start(t, 1)
			proxy := b.Proxies(t)[0]
			one, two := open(t, b, 0, "one", settings), openAt(t, proxy.URL(), "two", settings)
			two.attach("k")
			one.append(it("k", "a"))
			two.await("k", "a")
			var gap atomic.Bool
			var count atomic.Int64
			proxy.Rule(func(m *natstest.Message) (v natstest.Verdict) {
				if isLive(m, "b", "c", "d") {
					gap.Store(true)
					v.Drop = true
				}
				if gap.Load() && test.lost(m) && count.Add(1) == test.time {
					v.Drop = true
				}
				return v
			})
			for _, data := range []string{"b", "c", "d", "e"} {
				one.append(it("k", data))
			}
			two.await("k", "a b c d e")
			is.Equal(len(two.lost), 0)
		})
	}
}

// The last messages of several keys are lost, and of the sweep's answer that would tell one
// part: it is asked again.
func TestSweepWithAnAnswerThatLacks(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	one := open(t, b, 0, "one", settings)
	gone, err := stream.New(one.nc, "there_is_none")
	is.NoErr(err)
	defer gone.Close()
	_, err = gone.Last(t.Context(), "x")
	is.True(err != nil)
	_, err = gone.Next(t.Context(), "x", 0, 10)
	is.True(err != nil)
	_, err = gone.SubjectOf(t.Context(), 1)
	is.True(err != nil)
	last, err := one.stream.Last(t.Context(), one.subject("k"))
	is.NoErr(err)
	is.Equal(last, uint64(0))
}

// A replica lags behind what the leader tells, and does not catch up: who reads is told so,
// and does not wait for ever.
func TestReadDoesNotWaitForEver(t *testing.T) {
	t.Parallel()
	b := natstest.Start(t, 1)
	proxy := b.Proxies(t)[0]
	one, two := open(t, b, 0, "one", settings), openAt(t, proxy.URL(), "two", settings)
	item := it("k", "a")
	one.append(item)
	proxy.Rule(func(m *natstest.Message) (v natstest.Verdict) {
		if !m.FromServer && strings.Contains(m.Subject, "DIRECT.GET") && strings.Contains(string(m.Data), fmt.Sprintf(`"batch":%d`, readBatch)) {
			v.Instead = []byte(`{"seq":1,"next_by_subj":"test.ev.NOBODY","batch":1}`) // as who has nothing yet
		}
		return v
	})
	await(t, func() bool { // a busy server that is late with its word is not asked: the leader is, and has all
		read := make(chan error, 1)
		go func() {
			read <- two.Read(context.Background(), "k", 0, item.Seq, func([]Message) bool { return true })
		}()
		select {
		case err := <-read:
			return err != nil
		case <-time.After(time.Minute):
			t.Fatal("it waits for ever")
			return false
		}
	})
}

// A message gets lost on its way to one, and goes from the history before that is noticed.
// The next one has none before it: that does not say that there never was any.
func TestWhatHasGoneUnseenIsTold(t *testing.T) {
	t.Parallel()
	is := is.New(t)
	b := natstest.Start(t, 1)
	proxy := b.Proxies(t)[0]
	one, two := open(t, b, 0, "one", settings), openAt(t, proxy.URL(), "two", settings)
	two.attach("k")
	one.append(it("k", "a"))
	two.await("k", "a")
	proxy.Rule(func(m *natstest.Message) (v natstest.Verdict) {
		v.Drop = isLive(m, "b") || strings.Contains(string(m.Data), "multi_last")
		return v
	})
	item := it("k", "b")
	one.append(item)
	_, err := one.purge(t.Context(), stream.Token("k"), item.Seq)
	is.NoErr(err)
	one.append(it("k", "c"))
	two.await("k", "a c")
	place, told := two.lostAt("k")
	is.True(told)
	is.Equal(place, item.Seq)
}
