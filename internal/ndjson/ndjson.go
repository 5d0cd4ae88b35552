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
	results := r.URL.Query().Get("results")
	if results != "" && results != "all" { // else a misspelt one would show by what is missing only
		return &problem.FieldError{Code: problem.CodeInvalidField, Field: "results", Index: -1, Detail: "must be all"}
	}
	if !in.Body.Use(linesBytes) {
		return problem.ErrBodies
	}
	rc := http.NewResponseController(w)
	rc.EnableFullDuplex()            // HTTP/2 needs none and says so
	rc.SetWriteDeadline(time.Time{}) // the server's own is for answers that come at once
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
	out := newSpool(w, in.Answer)
	defer out.finish()

	var sum lineSummary
	body := &patientBody{body: r.Body, rc: rc, ending: in.Ending, expires: in.Expires}
	taking, stop := context.WithCancelCause(r.Context())
	defer stop(nil)
	go body.interrupt(taking, stop)
	lines := lineReader{in: bufio.NewReaderSize(body, lineBuffer), max: in.MaxLine, memory: in.Body}
	var pending [][]byte // lines
	var numbers []int
	for n := 0; ; {
		lines.reset()
		clear(pending) // or a long line is kept while the next one is waited for
		pending, numbers = pending[:0], numbers[:0]
		var end error // of the line after those
		for more := true; more && end == nil && len(numbers) < maxTogether; more = lines.more() {
			var line []byte
			line, end = lines.next()
			n++
			if end == nil {
				end = body.expired() // the line may have been read before
			}
			if end == nil && len(bytes.TrimSpace(line)) > 0 {
				pending, numbers = append(pending, line), append(numbers, n)
			}
		}
		receipts, errs := in.Publish(r.Context(), taking, pending)
		for i, number := range numbers {
			var err error
			switch got := receipts[i]; {
			case errs[i] != nil:
				sum.Refused++
				in.Refused(errs[i])
				err = out.put(problemOf(number, errs[i]))
			default:
				sum.Accepted++
				if got.Cursor != "" {
					sum.Cursor = got.Cursor
				}
				if got.Duplicate {
					sum.Duplicates++
				}
				if got.Members == 0 {
					sum.NoMembers++
				}
				if results == "all" {
					err = out.put(lineReceipt{number, delivery.NewReceiptJSON(got)})
				}
			}
			if err != nil { // nobody reads the answers
				return nil
			}
		}
		switch _, broken := errors.AsType[*readError](end); {
		case end == nil:
		case end == io.EOF:
			return out.put(sum)
		default:
			sum.Refused++
			in.Refused(end)
			if err := out.put(problemOf(n, end)); broken {
				return out.put(sum)
			} else if err != nil {
				return nil
			}
		}
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
