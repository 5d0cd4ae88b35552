package ndjson

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"realtimehub/internal/allowance"
	"realtimehub/internal/delivery"
	"realtimehub/internal/problem"
)

// Bounds of NDJSON publishing.
const (
	bodyTimeout = 30 * time.Second // for a client that keeps silent in the middle of its lines
	leaveTime   = time.Second      // for what comes of a body after its answer
	// maxTogether lines that have come are published together: so their
	// acknowledgements are awaited together.
	maxTogether = 64

	linesBytes = 96 << 10 // what a body takes while it is open, its goroutines too
)

// lineProblem is the answer to a line that was refused.
type lineProblem struct {
	Line   int                    `json:"line"`
	Code   string                 `json:"code"`
	Detail string                 `json:"detail"`
	Errors []problem.FieldProblem `json:"errors,omitempty"`
	ID     string                 `json:"id,omitempty"` // of an event that may have been stored
}

// lineReceipt is the answer to a line that was accepted, with results=all.
type lineReceipt struct {
	Line int `json:"line"`
	delivery.ReceiptJSON
}

// lineSummary ends the answer.
type lineSummary struct {
	Accepted   int    `json:"accepted"`
	Refused    int    `json:"refused"`
	Duplicates int    `json:"duplicates"`
	NoMembers  int    `json:"withoutMembers,omitzero"` // events for a room that has none
	Cursor     string `json:"cursor,omitempty"`
}

// Intake is what takes the lines.
type Intake struct {
	MaxLine int // bytes; 0 lifts the limit
	// Publish publishes lines, each for itself. taking ends, with a cause, when no more
	// are taken.
	Publish func(ctx, taking context.Context, lines [][]byte) ([]delivery.Receipt, []error)
	Refused func(error) // told of each line that was
	Body    *allowance.Call
	Answer  *allowance.Call // whose the answers are that are not read yet
	Ending  <-chan struct{} // closed when no more lines are taken
	Expires time.Time       // of the credential; zero: never
}

// Serve publishes one event a line as they come. Answers go through a
// spool, so that a client may write all it has before it reads anything.
func Serve(w http.ResponseWriter, r *http.Request, in Intake) error {
	var faults problem.Faults
	results := faults.Query(r.URL.RawQuery).Get("results")
	if results != "" && results != "all" { // else a misspelt one would show by what is missing only
		faults.Add(problem.CodeInvalidField, "results", "must be all")
	}
	if err := faults.Err(); err != nil {
		return err
	}
	if !in.Body.Use(linesBytes) {
		return problem.ErrBodies
	}
	rc := begin(w)
	s := &session{in: in, all: results == "all", out: newSpool(w, in.Answer)}
	if r.ProtoMajor == 1 {
		s.head = w.Header()
	}
	s.body = &patientBody{body: r.Body, rc: rc, ending: in.Ending, expires: in.Expires}
	defer s.body.leave()
	defer s.out.finish()
	s.lines = lineReader{in: bufio.NewReaderSize(s.body, lineBuffer), max: in.MaxLine, memory: in.Body}
	taking, stop := context.WithCancelCause(r.Context())
	defer stop(nil)
	go s.body.interrupt(taking, stop)
	for {
		end := s.read()
		receipts, errs := in.Publish(r.Context(), taking, s.pending)
		if s.answer(receipts, errs) != nil {
			return nil // nobody reads the answers
		}
		if end != nil {
			if s.end(end) {
				return nil
			}
		}
	}
}

// begin has the answer written beside the reading of the body.
func begin(w http.ResponseWriter) *http.ResponseController {
	rc := http.NewResponseController(w)
	rc.EnableFullDuplex()            // HTTP/2 needs none and says so
	rc.SetWriteDeadline(time.Time{}) // the server's own is for answers that come at once
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
	return rc
}

// session is one body of lines, and its answers.
type session struct {
	in    Intake
	all   bool // each receipt is answered
	body  *patientBody
	lines lineReader
	out   *spool
	head  http.Header // of an answer over HTTP/1 that has not begun, else nil
	sum   lineSummary

	n       int      // lines that were read
	pending [][]byte // of them, those that are published together
	numbers []int    // which they are
}

// read waits for a line and takes those that have come with it. The error is that of the line
// after them.
func (s *session) read() (end error) {
	s.lines.reset()
	clear(s.pending) // or a long line is kept while the next one is waited for
	s.pending, s.numbers = s.pending[:0], s.numbers[:0]
	for more := true; more && len(s.numbers) < maxTogether; more = s.lines.more() {
		line, err := s.lines.next()
		s.n++
		if err == nil {
			err = s.body.expired() // the line may have been read before
		}
		if err != nil {
			return err
		}
		if len(bytes.TrimSpace(line)) > 0 {
			s.pending, s.numbers = append(s.pending, line), append(s.numbers, s.n)
		}
	}
	return nil
}

// answer counts what became of the lines, and answers those that are to be.
func (s *session) answer(receipts []delivery.Receipt, errs []error) (err error) {
	for i, number := range s.numbers {
		switch got := receipts[i]; {
		case errs[i] != nil:
			err = s.refuse(number, errs[i])
		default:
			s.sum.add(got)
			if s.all {
				err = s.put(lineReceipt{number, delivery.NewReceiptJSON(got)})
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *session) refuse(line int, err error) error {
	s.sum.Refused++
	s.in.Refused(err)
	return s.put(problemOf(line, err))
}

// put answers. Where the answer begins before the body has ended, its connection is for no other
// request: what follows on it may be the rest of this one.
func (s *session) put(answer any) error {
	if s.head != nil && !s.body.ended {
		s.head.Set("Connection", "close")
	}
	s.head = nil
	return s.out.put(answer)
}

// end answers the line that could not be read, and says whether it was the last, or nobody reads
// the answers.
func (s *session) end(why error) (over bool) {
	if why != io.EOF {
		unread := s.refuse(s.n, why) != nil
		if _, broken := errors.AsType[*readError](why); !broken {
			return unread
		}
	}
	s.put(s.sum)
	return true
}

func (s *lineSummary) add(r delivery.Receipt) {
	s.Accepted++
	if r.Cursor != "" {
		s.Cursor = r.Cursor
	}
	if r.Duplicate {
		s.Duplicates++
	}
	if r.Members == 0 {
		s.NoMembers++
	}
}

func problemOf(line int, err error) lineProblem {
	p := problem.Of(err)
	fault := lineProblem{Line: line, Code: p.Code, Detail: p.Detail, Errors: problem.FieldProblems(err)}
	if ids := problem.EventIDs(err); len(ids) == 1 {
		fault.ID = ids[0]
	}
	return fault
}
