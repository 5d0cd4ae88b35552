package signalr

import (
	"fmt"
	"net/http"

	"realtimehub/internal/access"
	"realtimehub/internal/delivery"
	"realtimehub/internal/problem"
	"realtimehub/internal/request"
)

// Send serves the POST of what a client says: several records. Where one is malformed none is
// heeded. Pings, which come from each client all the time, ask nothing of anybody.
func (d *Door) Send(w http.ResponseWriter, r *http.Request, who *access.Caller) error {
	pass, err := d.pass(r, who)
	if err != nil {
		return err
	}
	memory := d.doors.Quotas.Body(who.Holder(r))
	defer memory.Close()
	body, err := request.Small.Bytes(r, memory)
	if err != nil {
		return err
	}
	calls, err := invocations(body)
	if err == nil && len(calls) > 0 {
		err = d.invoke(r, pass, who, calls)
	}
	if err != nil {
		return err
	}
	plain(w, http.StatusOK, nil) // a client that left is not our failure
	return nil
}

// invocations reads records, and returns those that ask for something.
func invocations(body []byte) (calls []Message, err error) {
	for n := 0; len(body) > 0; n++ {
		record, rest, err := Next(body)
		var m Message
		if err == nil {
			m, err = Parse(record)
		}
		if err != nil {
			return nil, inRecord(n, err)
		}
		if m.Type == Invocation || m.Type == StreamInvocation {
			calls = append(calls, m)
		}
		body = rest
	}
	return calls, nil
}

// inRecord is an error with the number of its record.
func inRecord(n int, err error) error {
	faults := problem.Fields(err)
	if len(faults) == 0 {
		return &problem.FieldError{Code: problem.CodeMalformedJSON, Field: fmt.Sprintf("record %d", n), Index: -1, Detail: err.Error()}
	}
	first := *faults[0]
	if first.Field != "" {
		first.Field = "." + first.Field
	}
	first.Field = fmt.Sprintf("record %d%s", n, first.Field)
	return &first
}

// mostAnswers is how many bytes of answers are gathered before they are sent.
const mostAnswers = 32 << 10

// invoke does what a client asks, one after the other, and has the answers sent on its stream.
func (d *Door) invoke(r *http.Request, pass Pass, who *access.Caller, calls []Message) error {
	c, err := d.session(r, pass, who)
	if err != nil {
		return err
	}
	var answers []byte
	for _, m := range calls {
		answers = d.answer(r.Context(), answers, c, m)
		if len(answers) > mostAnswers {
			if err := d.say(r, c, answers); err != nil {
				return err
			}
			answers = nil
		}
	}
	return d.say(r, c, answers)
}

// say sends answers. A hub of a version that has no SignalR holds no session, so who is not found
// has ended.
func (d *Door) say(r *http.Request, c *delivery.Connection, answers []byte) error {
	if len(answers) == 0 {
		return nil
	}
	found, err := d.cluster.Say(r.Context(), c, answers)
	if err == nil && !found {
		err = errEnded
	}
	return err
}
