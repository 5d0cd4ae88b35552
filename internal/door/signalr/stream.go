package signalr

import (
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/access"
	"realtimehub/internal/delivery"
	"realtimehub/internal/engine"
	"realtimehub/internal/lobby"
	"realtimehub/internal/sse"
)

var errOpened = errNoSession("id: its stream has been opened already: negotiate again")

// stream opens a session over Server-Sent Events.
func (d *Door) stream(w http.ResponseWriter, r *http.Request, pass Pass, who *access.Caller) error {
	sub, err := d.subscription(r, pass, who, Events)
	if err != nil {
		return err
	}
	streams := d.doors.Streams
	c, stream, over, err := d.doors.Open(r, sub, !streams.Engine().Takes(r))
	if errors.Is(err, delivery.ErrTaken) {
		return errOpened
	}
	sse.Header(w.Header())
	if err != nil {
		streams.Engine().Serve(w, r, d.refusal(sub, err))
		return nil
	}
	defer over()
	defer lobby.Away(r)() // it is counted as a stream
	d.keepAlive(c, Events)
	streams.Engine().Serve(w, r, stream)
	return nil
}

// refusal is a stream that says why there is none: EventSource shows no other answer to a page.
func (d *Door) refusal(sub delivery.Subscription, err error) *engine.Stream {
	words := d.doors.Streams.Encoder(sub.Encoding)
	s := words.NewStream(func(error) {})
	var first engine.Batch
	first.Send(s, engine.NewFrame(Encoding{Events}.AppendRecords(nil, []byte(accepted)), false))
	first.Flush()
	away := d.doors.TurnedAway(sub.Tenant, err)
	s.Close(words.Closing(away.Reason, away.After))
	return s
}

// Clients give up a stream that was silent for 30 s. They are sent a ping as often as ASP.NET Core
// does it, whatever the hub's heartbeat is.
const (
	mostSilence = 15 * time.Second
	pingEvery   = 10 * time.Second
)

// keepAlive has a stream pinged whose hub does not do it often enough.
func (d *Door) keepAlive(c *delivery.Connection, over Transport) {
	if beat := d.doors.Streams.Heartbeat(); beat == 0 || beat > mostSilence {
		d.pings.add(c.ID, over)
	}
}

// pings keeps streams alive whose hub has no heartbeat that is often enough.
type pings struct {
	find func(uuid.UUID) *delivery.Connection // static; nil: it has ended

	mu sync.Mutex
	// Guarded by mu.
	list    []pinged
	pinging bool // send comes, or is under way
}

// pinged is a connection that is kept alive.
type pinged struct {
	id   uuid.UUID
	over Transport
}

func (p *pings) add(id uuid.UUID, over Transport) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list = append(p.list, pinged{id, over})
	if !p.pinging {
		p.pinging = true
		time.AfterFunc(pingEvery, p.send)
	}
}

// send pings those who are there, and comes back as long as there are any. Who comes meanwhile does not
// wait for it.
func (p *pings) send() {
	p.mu.Lock()
	list := p.list
	p.list = nil
	p.mu.Unlock()
	list = p.sendTo(list)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list = append(list, p.list...)
	if p.pinging = len(p.list) > 0; p.pinging {
		time.AfterFunc(pingEvery, p.send)
	}
}

// sendTo pings some, and returns those who are there still.
func (p *pings) sendTo(list []pinged) (there []pinged) {
	frames := map[Transport]*engine.Frame{}
	for _, over := range []Transport{Events, Sockets} {
		frames[over] = engine.NewFrame(Encoding{over}.AppendHeartbeat(nil), true)
	}
	var d engine.Batch
	defer d.Flush()
	return slices.DeleteFunc(list, func(of pinged) bool {
		c := p.find(of.id)
		if c != nil {
			d.Send(c.Stream, frames[of.over])
		}
		return c == nil
	})
}
