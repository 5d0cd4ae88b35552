package signalr

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"

	"realtimehub/internal/access"
	"realtimehub/internal/allowance"
	"realtimehub/internal/answer"
	"realtimehub/internal/cluster"
	"realtimehub/internal/delivery"
	"realtimehub/internal/event"
	"realtimehub/internal/lobby"
)

const (
	pollTime  = 15 * time.Second         // that a poll waits for something to tell
	farTime   = 5 * time.Second          // that it waits for another hub, whose death is noticed then
	firstPoll = 2 * time.Second          // after negotiating: within that time a session that no hub is known to hold is a new one, though one is silent
	pollBytes = pollRoom + chunk + 8<<10 // that a session takes: what waits for a poll, what waits for room, and who hands it on
	chunk     = 64 << 10
)

// poll serves a GET of long polling. The first one opens the session, and is answered at once.
// What another hub holds it is asked for.
func (d *Door) poll(w http.ResponseWriter, r *http.Request, pass Pass, who *access.Caller) error {
	own := d.doors.Streams.Marked(pass.Session)
	if p := d.polls.of(own); p != nil && p.who == pass.who() {
		defer lobby.Pause(r)() // it is counted with its session
		asked := p.begin()
		defer p.done(asked, idleTime) // a large answer may take its client longer
		records, over := p.take(r.Context(), asked, pollTime)
		_, err := d.told(w, r, who, records, over, p.end)
		return err
	}
	id, err := d.holder(r, pass, who)
	switch {
	case err != nil:
		return err
	case id == own:
		return errEnded
	case id != uuid.Nil:
		d.opened.add(pass.Session, id)
		return d.pollElsewhere(w, r, pass, who, id)
	}
	sub, err := d.subscription(r, pass, who, Polling)
	switch {
	case err != nil:
		return err
	case d.begun.has(own), d.started.Unix() > pass.Opens.Add(-opening).Unix(): // it may have told of events: they would come again, or be lost
		return errEnded
	}
	if err := d.beginPolls(r, sub); err != nil {
		return err
	}
	plain(w, http.StatusOK, nil) // a client that left is not our failure
	return nil
}

// holder is the id of a session's connection, at the hub that has opened it, or had; zero: none is
// known to.
func (d *Door) holder(r *http.Request, pass Pass, who *access.Caller) (uuid.UUID, error) {
	if id, known := d.opened.of(pass.Session); known {
		return id, nil
	}
	if err := d.mayAskAll(r, who); err != nil {
		return uuid.Nil, err
	}
	isNew := time.Until(pass.Opens) > opening-firstPoll
	id, err := d.cluster.FindPolled(r.Context(), pass.Session, pass.who())
	if isNew {
		err = nil
	}
	return id, err
}

// pollElsewhere asks the hub that holds a session. Where nothing is proven the poll keeps its place
// among strangers meanwhile: its session is paid for at that hub, and nothing of it at this one. Who
// has proven something is no stranger any more, and pays.
func (d *Door) pollElsewhere(w http.ResponseWriter, r *http.Request, pass Pass, who *access.Caller, id uuid.UUID) error {
	lost := func() { d.cluster.Poll(context.WithoutCancel(r.Context()), id, pass.who(), 0) }
	a, err := d.cluster.Poll(r.Context(), id, pass.who(), farTime)
	switch {
	case r.Context().Err() != nil:
		lost()
		return nil
	case err != nil:
		return err
	case !a.Found:
		return errEnded
	}
	told, err := d.told(w, r, who, a.Records, a.Over, lost)
	if told && len(a.Records) > 0 {
		d.cluster.Poll(context.WithoutCancel(r.Context()), id, pass.who(), cluster.Told) // if it does not come through, the session ends
	}
	return err
}

// told answers a poll, and has the answer paid for until it is read: another poll may come before. Where
// it does not come through, what was in it is lost, and the session is to end: its client begins anew
// from the cursor that it knows.
func (d *Door) told(w http.ResponseWriter, r *http.Request, who *access.Caller, records []byte, over bool, lost func()) (told bool, err error) {
	if over {
		return true, answer.NoContent(w)
	}
	memory := d.doors.Quotas.Answer(who.Holder(r))
	defer memory.Close()
	if !memory.Use(len(records)) {
		lost()
		return false, allowance.ErrAnswers
	}
	if plain(w, http.StatusOK, records) != nil || r.Context().Err() != nil {
		lost()
		return false, nil
	}
	return true, nil
}

// beginPolls opens a session whose client polls.
func (d *Door) beginPolls(r *http.Request, sub delivery.Subscription) error {
	who := event.TenantProfile{Tenant: sub.Tenant, Profile: sub.Profile}
	over, err := d.doors.Keep(who, pollBytes)
	if err != nil {
		return d.doors.Refusal(sub.Tenant, err)
	}
	opened := false
	defer func() {
		if !opened {
			over() // also where Open panics, since its client has left
		}
	}()
	sub.Session = 0 // each poll has a connection of net/http's
	c, stream, _, err := d.doors.Open(r, sub, false)
	if err != nil {
		if errors.Is(err, delivery.ErrTaken) {
			return errOpened
		}
		return d.doors.Refusal(sub.Tenant, err)
	}
	opened = true
	ctx, cancel := context.WithCancel(context.Background())
	p := &poll{id: c.ID, who: who, all: &d.polls, cancel: cancel, gone: ctx.Done(), more: make(chan struct{}, 1), room: make(chan struct{}, 1)}
	p.idle = time.AfterFunc(idleTime, p.end)
	d.polls.add(p)
	d.opened.add(sub.ID, c.ID)
	d.begun.add(c.ID)
	go func() {
		defer over()
		defer p.close()
		d.doors.Streams.Engine().Hand(ctx, stream, p.put)
	}()
	return nil
}

// pollFor answers another hub's poll of a session of this hub.
func (d *Door) pollFor(id uuid.UUID, who event.TenantProfile, wait time.Duration) (a cluster.Answer) {
	p := d.polls.of(id)
	if p == nil || p.who != who {
		d.begun.add(id)
		return a
	}
	a.Found = true
	switch {
	case wait == 0:
		p.end()
	case wait == cluster.Told:
		p.told()
	case wait > 0:
		a.Records, a.Over = p.takeFar(min(wait, pollTime))
	}
	return a
}

// End serves DELETE, by which a client that polls leaves. A stream's client just ends it.
func (d *Door) End(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	pass, err := d.pass(r, who)
	if err != nil {
		return err
	}
	c, err := d.session(r, pass, who)
	switch {
	case err != nil:
		return err
	case c.Remote():
		if _, err := d.cluster.Poll(r.Context(), c.ID, pass.who(), 0); err != nil {
			return err
		}
	default:
		if p := d.polls.of(c.ID); p != nil {
			p.end()
		}
	}
	plain(w, http.StatusAccepted, nil) // a client that left is not our failure
	return nil
}

// polls are the sessions whose clients poll.
type polls struct {
	mu sync.Mutex
	id map[uuid.UUID]*poll // guarded by mu
}

func (s *polls) of(id uuid.UUID) *poll {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.id[id]
}

func (s *polls) add(p *poll) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.id == nil {
		s.id = map[uuid.UUID]*poll{}
	}
	s.id[p.id] = p
}

func (s *polls) drop(p *poll) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.id[p.id] == p {
		delete(s.id, p.id)
	}
}
