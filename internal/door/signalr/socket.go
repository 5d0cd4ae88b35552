package signalr

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"realtimehub/internal/access"
	"realtimehub/internal/allowance"
	"realtimehub/internal/delivery"
	"realtimehub/internal/door/socket"
	"realtimehub/internal/event"
	"realtimehub/internal/lobby"
	"realtimehub/internal/problem"
	"realtimehub/internal/strictjson"
)

const (
	handshakeTime = 15 * time.Second // from the socket's opening, as ASP.NET Core has it
	callTime      = 15 * time.Second // for an invocation, whatever it has to wait for
)

// onSocket opens a session over WebSocket. Nothing may come before the answer to its handshake: so
// there is a connection once that was read. What is wrong is told by the answer, since a page sees
// no status of a WebSocket.
func (d *Door) onSocket(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	if err := socket.Check(r, ""); err != nil {
		return err
	}
	holder := who.Holder(r)
	letGo, err := d.doors.Hold(r, holder)
	if err != nil {
		return d.doors.Refusal(holder.Tenant, err)
	}
	defer letGo()
	opened, text, err := d.firstText(w, r, holder)
	if opened == nil {
		return d.doors.Refusal(holder.Tenant, err)
	}
	defer opened.Close()
	if err != nil {
		d.neverShook(err)
		return nil
	}
	rest, err := shakeHands(text)
	sub, wrong := d.subscriptionOnSocket(r, who)
	if err = errors.Join(err, wrong); err != nil {
		opened.End(d.refused(err))
		return nil
	}
	c, stream, _, err := d.doors.Open(r, sub, false)
	if errors.Is(err, delivery.ErrTaken) {
		opened.End(d.refused(errOpened))
		return nil
	}
	yes := socket.AppendText(nil, []byte(accepted))
	if err != nil {
		opened.End(d.doors.Streams.Encoder(sub.Encoding).AppendTurnedAway(yes, d.doors.TurnedAway(sub.Tenant, err)))
		return nil
	}
	defer lobby.Away(r)() // it is counted as a stream
	d.keepAlive(c, Sockets)
	t := &talk{door: d}
	t.socket = socket.NewSession(d.doors, c, lobby.PlaceOf(r), who.Proven(), t)
	stream.Listen(&t.socket)
	t.Said(rest)
	d.doors.Streams.Engine().ServeSocket(opened, r, stream, yes)
	return nil
}

// mostShaking is how many sockets of one person may wait for their handshakes. They are no streams
// yet, of which one more takes an older one's place, and each has a descriptor.
const mostShaking = 256

// firstText opens a socket of somebody, and waits for the first text of its client; opened is nil if
// there is no room for one more that waits.
func (d *Door) firstText(w http.ResponseWriter, r *http.Request, holder event.TenantProfile) (opened *socket.Opened, text []byte, err error) {
	if err := d.doors.Room(r, holder.Tenant); err != nil {
		return nil, nil, err
	}
	d.shaking.Force(holder, 1)
	defer d.shaking.Give(holder, 1)
	if d.shaking.Of(holder) > mostShaking {
		return nil, nil, d.doors.Streams.TurnAway(holder.Tenant, delivery.ErrFull)
	}
	opened = socket.Open(w, r, "", handshakeTime)
	text, err = opened.First()
	return opened, text, err
}

// subscriptionOnSocket is subscription of a client that may not have negotiated: nothing but the
// socket needs the name of its session.
func (d *Door) subscriptionOnSocket(r *http.Request, who *access.Caller) (sub delivery.Subscription, err error) {
	pass := Pass{Opens: time.Now().Add(opening)}
	if r.URL.Query().Has("id") { // if it cannot be read, that is told below
		if pass, err = d.pass(r, who); err != nil {
			return sub, err
		}
	}
	return d.subscription(r, pass, who, Sockets)
}

// shakeHands reads a handshake, and returns the records after it.
func shakeHands(text []byte) (rest []byte, err error) {
	record, rest, err := Next(text)
	if err != nil {
		return nil, inRecord(0, err)
	}
	m, err := Parse(record)
	if err == nil && m.Type != Handshake {
		err = &problem.FieldError{Code: problem.CodeInvalidField, Field: "protocol", Index: -1, Detail: "is needed: a handshake comes first"}
	}
	return rest, err
}

// neverShook counts a client that has sent no handshake.
func (d *Door) neverShook(err error) {
	switch {
	case errors.Is(err, socket.ErrLeft): // a page that is closed
	case errors.Is(err, socket.ErrSilent):
		d.doors.Streams.Refused(delivery.CloseVanished, err)
	default:
		d.doors.Streams.Refused(delivery.CloseProtocol, err)
	}
}

// refused counts a handshake for which there is no session, and returns the frames that answer it.
func (d *Door) refused(err error) []byte {
	d.doors.Streams.Refused(delivery.CloseRefused, err)
	p := problem.Of(err)
	text := strictjson.AppendQuote([]byte(`{"error":`), p.Code+": "+p.Detail)
	return socket.AppendEnd(socket.AppendText(nil, append(text, '}', separator)), "refused")
}

// talk does what the client of a session over WebSocket says.
type talk struct {
	door   *Door // static
	socket socket.Session
}

// Said does what each record of a text says, one after the other.
func (t *talk) Said(text []byte) {
	for n := 0; len(text) > 0 && !t.socket.Over(); n++ {
		record, rest, err := Next(text)
		var m Message
		if err == nil {
			m, err = Parse(record)
		}
		switch {
		case err != nil:
			why := inRecord(n, err).Error()
			t.socket.Break(Encoding{Sockets}.AppendRecords(nil, appendClose(nil, why)), why)
		case m.Type == Invocation || m.Type == StreamInvocation:
			t.invoke(m, len(record))
		case m.Type == Close:
			t.socket.Leave()
		} // a ping was heard by the engine
		text = rest
	}
}

// invoke does what a record of so many bytes asks, and answers it.
func (t *talk) invoke(m Message, size int) {
	if t.socket.Closed() && !strings.EqualFold(m.Target, "ack") {
		return
	}
	memory := t.socket.Memory()
	defer memory.Close()
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	var answer []byte
	if memory.Use(allowance.BodyCopies * size) {
		answer = t.door.answer(ctx, nil, t.socket.Conn, m)
	} else {
		answer = completed(nil, m, nil, problem.ErrBodies)
	}
	if len(answer) > 0 {
		t.socket.Send(Encoding{Sockets}.AppendRecords(nil, answer))
	}
}
