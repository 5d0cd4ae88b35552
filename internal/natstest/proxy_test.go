package natstest

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"
)

// A rule sees each message, both ways, and decides about it alone.
func TestProxy(t *testing.T) {
	is := is.New(t)
	b := Start(t, 1)
	p := b.Proxies(t)[0]
	seen := make(chan *Message, 100)
	late := make(chan struct{})
	p.Rule(func(m *Message) (v Verdict) {
		if strings.HasPrefix(m.Subject, "a.") {
			seen <- m
		}
		switch {
		case m.Subject == "a.lost" && m.FromServer:
			v.Drop = true
		case m.Subject == "a.unsent" && !m.FromServer:
			v.Drop = true
		case m.Subject == "a.twice" && m.FromServer:
			v.Twice = true
		case m.Subject == "a.other" && m.FromServer:
			v.Instead = []byte("other data")
		case m.Subject == "a.late" && m.FromServer:
			v.After = late
		}
		return v
	})
	nc := Connect(t, p.URL(), nats.Name("me"), nats.ReconnectWait(5*time.Millisecond), nats.MaxReconnects(-1))
	sub, err := nc.SubscribeSync("a.*")
	is.NoErr(err)
	for _, name := range []string{"lost", "unsent", "twice", "late", "last"} {
		is.NoErr(nc.PublishMsg(&nats.Msg{Subject: "a." + name, Reply: "r", Header: nats.Header{"X": {name}}, Data: []byte("data")}))
	}
	next := func() string {
		t.Helper()
		msg, err := sub.NextMsg(30 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if string(msg.Data) != "data" || "a."+msg.Header.Get("X") != msg.Subject {
			t.Errorf("it arrived as %+v", msg)
		}
		return msg.Subject
	}
	is.Equal([]string{next(), next(), next()}, []string{"a.twice", "a.twice", "a.last"})
	close(late)
	is.Equal(next(), "a.late")
	<-seen // SUB
	m := <-seen
	is.Equal([]string{m.Verb, m.Subject, m.Reply, m.Header.Get("X"), string(m.Data), m.Client}, []string{"HPUB", "a.lost", "r", "lost", "data", "me"})

	is.NoErr(nc.Publish("a.plain", []byte("x\r\ny"))) // framed by its length
	msg, err := sub.NextMsg(30 * time.Second)
	is.NoErr(err)
	is.Equal(string(msg.Data), "x\r\ny")

	is.NoErr(nc.Publish("a.other", []byte("x")))
	msg, err = sub.NextMsg(30 * time.Second)
	is.NoErr(err)
	is.Equal(string(msg.Data), "other data")

	p.Silence()
	is.True(errors.Is(nc.FlushTimeout(50*time.Millisecond), nats.ErrTimeout))
	p.Mend()
	is.NoErr(nc.FlushTimeout(30 * time.Second))
	p.Cut()
	for deadline := time.Now().Add(30 * time.Second); nc.IsConnected(); time.Sleep(time.Millisecond) {
		is.True(time.Now().Before(deadline)) // it is told
	}
	p.Mend()
	is.NoErr(nc.FlushTimeout(30 * time.Second))
}

// Clients learn of no server that is not behind a proxy.
func TestProxyHidesServers(t *testing.T) {
	is := is.New(t)
	b := Start(t, 3)
	nc := Connect(t, b.Proxies(t)[0].URL())
	is.Equal(len(nc.DiscoveredServers()), 0)
}
