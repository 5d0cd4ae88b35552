package contracttest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// maxBody is how much of a body is looked at; a longer one is not checked.
const maxBody = 4 << 20

// intake gathers a body, or its lines one after the other.
type intake struct {
	judged *judged
	media  media
	fold   func(any)
	got    []byte
	long   bool // longer than what is gathered
	// Of lines: how many there were, how many were not empty, and those that are not
	// in the contract, by their number.
	line, filled int
	wrong        map[int]fault
	each         func(line any)
}

type fault struct {
	place int // among the lines that are not empty
	err   error
}

func (in *intake) take(p []byte) {
	if in.long = in.long || len(in.got)+len(p) > maxBody; in.long {
		in.got = nil
		return
	}
	in.got = append(in.got, p...)
	if in.media.line == nil {
		return
	}
	for {
		line, rest, more := bytes.Cut(in.got, []byte{'\n'})
		if !more {
			in.got = append([]byte{}, in.got...)
			return
		}
		in.got = rest
		in.takeLine(line)
	}
}

func (in *intake) takeLine(line []byte) {
	in.line++
	if len(bytes.TrimSpace(line)) == 0 {
		return
	}
	in.filled++
	if err := in.look(line); err != nil {
		if in.wrong == nil {
			in.wrong = map[int]fault{}
		}
		in.wrong[in.line] = fault{in.filled, err}
	}
}

// look is at a line, which is handed to each if it is as it should be.
func (in *intake) look(line []byte) error {
	if in.each == nil {
		return in.judged.fits(in.media.line, in.fold, line)
	}
	value, err := decode(line)
	if err == nil {
		err = in.media.line.Validate(value)
	}
	if err == nil {
		in.each(value)
	}
	return err
}

func decode(text []byte) (any, error) { return jsonschema.UnmarshalJSON(bytes.NewReader(text)) }

// body is a request's, as it is read.
type body struct {
	io.ReadCloser
	intake
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.take(p[:n])
	return n, err
}

func (b *body) check(m media, answer *writer) error {
	switch {
	case b.long, m.text && m.line == nil:
		return nil
	case m.line == nil:
		return b.judged.fits(m.schema, b.fold, b.got)
	}
	if len(b.got) > 0 { // the last line needs no end
		b.takeLine(b.got)
		b.got = nil
	}
	for number, wrong := range b.wrong {
		if !answer.refused[number] && wrong.place <= answer.counted {
			return fmt.Errorf("line %d: %w", number, wrong.err)
		}
	}
	return nil
}

// writer notes what is answered.
type writer struct {
	http.ResponseWriter
	of       *Operation
	upgrades bool // the request asked for another protocol
	status   int
	head     http.Header
	stream   bool
	broken   bool // nobody reads it
	intake

	refused map[int]bool // lines, as the answer says
	counted int          // lines that its summary knows of
}

// Unwrap is for http.ResponseController.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Hijack shows that the head is all that is to be seen.
func (w *writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil {
		w.status, w.head, w.stream = http.StatusOK, w.Header().Clone(), true
		if w.upgrades {
			w.status = http.StatusSwitchingProtocols
		}
	}
	return conn, rw, err
}

func (w *writer) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.begin(status, w.Header().Clone())
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *writer) begin(status int, head http.Header) {
	w.status, w.head = status, head
	kind := head.Get("Content-Type")
	w.stream = kind == "text/event-stream"
	_, w.media, _ = find(w.of.answers[strconv.Itoa(status)].bodies, kind)
	w.each = w.note
}

// note reads what a line of an answer says of the request's lines.
func (w *writer) note(line any) {
	object, _ := line.(map[string]any)
	number := func(name string) int {
		n, _ := object[name].(json.Number)
		i, _ := strconv.Atoi(n.String())
		return i
	}
	if _, refused := object["code"]; refused {
		w.refused[number("line")] = true
	}
	w.counted = number("accepted") + number("refused")
}

func (w *writer) check(m media) error {
	switch {
	case w.long || w.stream || w.broken:
		return nil
	case m.line != nil:
		if len(w.got) > 0 {
			return errors.New("the last line has no end")
		}
		for number, wrong := range w.wrong {
			return fmt.Errorf("line %d: %w", number, wrong.err)
		}
		return nil
	case m.text:
		return nil
	}
	return w.judged.fits(m.schema, nil, w.got)
}

func (w *writer) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if !w.stream {
		w.take(p)
	}
	n, err := w.ResponseWriter.Write(p)
	w.broken = w.broken || err != nil
	return n, err
}
