package webhook

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Answer is what became of an attempt.
type Answer string

// All answers.
const (
	AnswerTaken    Answer = "2xx"
	AnswerRedirect Answer = "3xx" // which is not followed
	AnswerRefused  Answer = "4xx"
	AnswerFailed   Answer = "5xx"
	AnswerTimeout  Answer = "timeout"
	AnswerError    Answer = "error" // there was none, or it could not be understood
)

// Answers are all there are.
func Answers() []Answer {
	return []Answer{AnswerTaken, AnswerRedirect, AnswerRefused, AnswerFailed, AnswerTimeout, AnswerError}
}

const (
	answerTime  = 15 * time.Second // for an answer
	answerBytes = 4 << 10          // of which so many are read, so that the connection can be used again
	answerHead  = 16 << 10
)

// outcome is what an attempt has come to.
type outcome struct {
	answer Answer
	status int           // 0: there was none
	after  time.Duration // so long the service wants to be left alone; 0: it has not said
	err    error
}

// gone says that the endpoint wants nothing more.
func (o *outcome) gone() bool { return o.status == http.StatusGone }

// newClient calls the endpoint and nobody else.
func newClient(transport http.RoundTripper) *http.Client {
	if transport == nil {
		own := http.DefaultTransport.(*http.Transport).Clone()
		own.MaxConnsPerHost, own.MaxIdleConnsPerHost = places, places
		own.MaxResponseHeaderBytes, own.DisableCompression = answerHead, true
		transport = own
	}
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// attempt sends a batch once.
func (s *Sender) attempt(ctx context.Context, b batch) outcome {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	now, id, body := time.Now(), b.id(), b.body()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.cfg.Endpoint.Of(b[0].Tenant), bytes.NewReader(body))
	if err != nil {
		return outcome{answer: AnswerError, err: errors.New("the URL for this tenant is none")}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "realtimehub")
	req.Header.Set("webhook-id", id)
	req.Header.Set("webhook-timestamp", strconv.FormatInt(now.Unix(), 10))
	req.Header.Set("webhook-signature", s.cfg.Secrets.Sign(id, now, body))
	res, err := s.client.Do(req)
	if err != nil {
		return unanswered(err)
	}
	defer res.Body.Close()
	io.Copy(io.Discard, io.LimitReader(res.Body, answerBytes)) // the status has said all
	return answered(res, time.Now())
}

// unanswered is an attempt to which there was no answer. The error leaves out the URL, which may
// have a secret.
func unanswered(err error) outcome {
	if inURL, ok := errors.AsType[*url.Error](err); ok {
		err = inURL.Err
	}
	if late, ok := errors.AsType[net.Error](err); ok && late.Timeout() {
		return outcome{answer: AnswerTimeout, err: errors.New("there was no answer in time")}
	}
	return outcome{answer: AnswerError, err: err}
}

func answered(res *http.Response, now time.Time) outcome {
	o := outcome{status: res.StatusCode, answer: AnswerError}
	switch res.StatusCode / 100 {
	case 2:
		o.answer = AnswerTaken
		return o
	case 3:
		o.answer = AnswerRedirect
	case 4:
		o.answer = AnswerRefused
	case 5:
		o.answer = AnswerFailed
	}
	if res.StatusCode == http.StatusTooManyRequests || res.StatusCode == http.StatusServiceUnavailable {
		o.after = retryAfter(res.Header.Get("Retry-After"), now)
	}
	o.err = errors.New("the answer was " + strconv.Itoa(res.StatusCode))
	return o
}

// retryAfter is how long a service wants to be left alone (RFC 9110, section 10.2.3): a second at
// least and longestDelay at most; 0 if it has not said.
func retryAfter(text string, now time.Time) time.Duration {
	var d time.Duration
	if seconds, err := strconv.ParseUint(text, 10, 63); err == nil {
		d = time.Duration(min(seconds, uint64(longestDelay/time.Second))) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		d = at.Sub(now)
	} else {
		return 0
	}
	return min(max(d, time.Second), longestDelay)
}
