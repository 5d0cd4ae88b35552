package contracttest

import (
	"io"
	"net/http"
)

// Transport passes requests on, and reports as Handler does. Of a request's body it
// checks JSON that can be had again, since the rest may be under way still.
func (c *Contract) Transport(next http.RoundTripper, report func(error)) http.RoundTripper {
	return transport{c, next, report}
}

type transport struct {
	contract *Contract
	next     http.RoundTripper
	report   func(error)
}

// CloseIdleConnections is for http.Client.
func (t transport) CloseIdleConnections() {
	if next, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		next.CloseIdleConnections()
	}
}

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := t.next.RoundTrip(r)
	if err != nil {
		return res, err
	}
	x := t.contract.exchange(r, nil)
	x.body.long = true
	if r.GetBody != nil {
		if again, err := r.GetBody(); err == nil {
			text, _ := io.ReadAll(again)
			x.body.long = x.body.media.line != nil
			x.body.take(text)
		}
	}
	x.answer.begin(res.StatusCode, res.Header)
	if x.answer.stream {
		t.contract.tell(x, t.report)
	} else {
		res.Body = &answerBody{res.Body, x, t, false}
	}
	return res, nil
}

// answerBody is judged when it was read to its end.
type answerBody struct {
	io.ReadCloser
	x      *exchange
	t      transport
	judged bool
}

func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.x.answer.take(p[:n])
	if err == io.EOF && !b.judged {
		b.judged = true
		b.t.contract.tell(b.x, b.t.report)
	}
	return n, err
}

func (b *answerBody) Close() error {
	if !b.judged { // what was not read is not checked
		b.judged, b.x.answer.long = true, true
		b.t.contract.tell(b.x, b.t.report)
	}
	return b.ReadCloser.Close()
}
