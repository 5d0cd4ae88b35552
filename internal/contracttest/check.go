package contracttest

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
)

// Handler passes requests on, and reports each exchange that the document has not.
// Nothing is delayed for it: streams are not looked at beyond their head, and
// hijacking and http.ResponseController work on.
func (c *Contract) Handler(next http.Handler, report func(error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := c.exchange(r, w)
		r2 := r.WithContext(r.Context())
		if r.Body != nil && r.Body != http.NoBody { // which tells a handler that none comes
			r2.Body = x.body
		}
		next.ServeHTTP(x.answer, r2)
		c.tell(x, report)
	})
}

func (c *Contract) exchange(r *http.Request, w http.ResponseWriter) *exchange {
	x := &exchange{contract: c, r: r, operation: c.elsewhere}
	x.find()
	x.answer = &writer{ResponseWriter: w, of: x.operation, upgrades: r.Header.Get("Upgrade") != "", refused: map[int]bool{}, intake: intake{judged: &c.judged}}
	x.body = &body{ReadCloser: r.Body, intake: intake{judged: &c.judged, fold: c.Fold}}
	_, x.body.media, _ = find(x.operation.bodies, r.Header.Get("Content-Type"))
	return x
}

func (c *Contract) tell(x *exchange, report func(error)) {
	if err := x.judge(); err != nil {
		report(fmt.Errorf("%s %s: %d: %w", x.r.Method, x.r.URL.RequestURI(), x.answer.status, err))
	}
}

// exchange is a request and its answer.
type exchange struct {
	contract  *Contract
	r         *http.Request
	operation *Operation // of the document, or what is elsewhere
	path      []string   // the segments of the operation's path
	body      *body
	answer    *writer
}

func (x *exchange) find() {
	escaped := x.r.URL.EscapedPath()
	if clean := path.Clean(escaped); escaped != clean && escaped != clean+"/" {
		return
	}
	probe := *x.r
	if probe.Method == http.MethodHead {
		probe.Method = http.MethodGet
	}
	if x.r.URL.Query().Get("doctor") == "true" { // at whichever door
		probe.Method, probe.URL = http.MethodGet, &url.URL{Path: "/v1/doctor"}
	}
	if _, pattern := x.contract.mux.Handler(&probe); pattern != "" {
		if o := x.contract.operations[strings.TrimSuffix(pattern, "{$}")]; o != nil && o.Name[:len(probe.Method)] == probe.Method {
			x.operation, x.path = o, strings.Split(o.Name[len(probe.Method)+1:], "/")
		}
	}
}

func (x *exchange) judge() error {
	w := x.answer
	if w.status == 0 {
		w.status, w.head = http.StatusOK, w.Header().Clone()
	}
	preflight := x.r.Method == http.MethodOptions && x.r.Header.Get("Access-Control-Request-Method") != ""
	if preflight || x.contract.Unlisted[x.r.URL.Path] {
		return nil
	}
	o, status := x.operation, strconv.Itoa(w.status)
	answer, ok := o.answers[status]
	if !ok {
		o = x.contract.elsewhere
		if answer, ok = o.answers[status]; !ok {
			return fmt.Errorf("the status is not documented; the answer was %.200q", w.got)
		}
	}
	var errs []error
	for name, h := range answer.headers {
		errs = append(errs, h.check("answer's header", w.head.Values(name)))
	}
	seen := o.Name + " " + status
	if len(answer.bodies) == 0 {
		if len(w.got) > 0 {
			errs = append(errs, errors.New("the answer should have no body"))
		}
	} else {
		kind, body, err := find(answer.bodies, w.head.Get("Content-Type"))
		if err == nil && x.r.Method != http.MethodHead {
			err = w.check(body)
		}
		if seen += " " + kind; err != nil {
			errs = append(errs, fmt.Errorf("the answer: %w", err))
		}
	}
	if w.status >= 200 && w.status < 300 { // after 101 it may still be refused
		errs = append(errs, x.taken()...)
	}
	err := errors.Join(errs...)
	if err == nil {
		x.contract.see(seen)
	}
	return err
}

// taken is what the document has against a request that was taken.
func (x *exchange) taken() (errs []error) {
	segments := strings.Split(x.r.URL.EscapedPath(), "/")
	query := x.r.URL.Query()
	for _, p := range x.operation.parameters {
		var values []string
		switch p.in {
		case "path":
			for i, segment := range x.path {
				if segment == "{"+p.name+"}" {
					value, _ := url.PathUnescape(segments[i])
					values = append(values, value)
				}
			}
		case "query":
			values = query[p.name]
		case "header":
			values = x.r.Header.Values(p.name)
		}
		errs = append(errs, p.check(p.in, values))
	}
	if len(x.operation.bodies) > 0 {
		_, m, err := find(x.operation.bodies, x.r.Header.Get("Content-Type"))
		if err == nil {
			err = x.body.check(m, x.answer)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("taken, though of its body: %w", err))
		}
	}
	return errs
}

// find is the documented media type that a Content-Type is.
func find(bodies map[string]media, contentType string) (string, media, error) {
	kind, _, err := mime.ParseMediaType(contentType)
	for _, name := range []string{kind, "*/*"} {
		if m, ok := bodies[name]; ok && err == nil {
			return name, m, nil
		}
	}
	return "", media{}, fmt.Errorf("the content type %q is not documented", contentType)
}

func (p *parameter) check(of string, values []string) error {
	var given []any
	for _, value := range values {
		if value != "" {
			given = append(given, value)
		}
	}
	if len(given) == 0 {
		if p.required {
			return fmt.Errorf("%s %s is missing", of, p.name)
		}
		return nil
	}
	value := given[0]
	switch {
	case p.array && p.apart:
		value = given
	case p.array:
		var items []any
		for item := range strings.SplitSeq(given[0].(string), ",") {
			items = append(items, item)
		}
		value = items
	case p.int:
		value = json.Number(given[0].(string))
		if _, err := strconv.Atoi(given[0].(string)); err != nil {
			return fmt.Errorf("%s %s: %w", of, p.name, err)
		}
	}
	if err := p.schema.Validate(value); err != nil {
		return fmt.Errorf("%s %s: %w", of, p.name, err)
	}
	return nil
}
