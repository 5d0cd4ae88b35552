package doctor

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
)

// failure is why no stream was to be had at all; false when there was one.
func (o *observed) failure() (Finding, bool) {
	if o.brief.hello != nil || o.http1 != nil && o.http1.hello != nil {
		return Finding{}, false
	}
	code, says := o.brief.failure()
	return Finding{SSE, code, Failed, says, adviceFor(SSE, code, o.proxies())}, true
}

// ofAllDoors is what no door is spared: there is nothing to examine then.
var ofAllDoors = map[string]bool{"unreachable": true, "redirected": true, "unauthorized": true, "forbidden": true, "busy": true, "bad-gateway": true}

func (t *trial) failure() (code, says string) {
	header := t.header
	switch {
	case t.status == 0 && t.expired:
		return "no-answer", fmt.Sprintf("No answer came within %s. Something takes the request and keeps it, or keeps the whole answer.", seconds(t.lived))
	case t.status == 0:
		return "unreachable", "The hub cannot be reached: " + reason(t.err)
	case t.status >= 300 && t.status < 400:
		to := "elsewhere"
		if u, err := url.Parse(header.Get("Location")); err == nil {
			to = (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String() // a query may hold a secret
		}
		return "redirected", fmt.Sprintf("The answer is %d, to %s. If that is a login page, the proxy has to let the hub's paths through: the hub checks tokens itself. If it is the hub's true address, give that one.", t.status, to)
	case t.status == http.StatusUnauthorized:
		return "unauthorized", "The answer is 401: a token is needed, or this one is not valid" + t.detail() + ". Give one with -token or in REALTIME_TOKEN; if you did, a proxy may have taken the header Authorization away."
	case t.status == http.StatusForbidden:
		return "forbidden", "The answer is 403" + t.detail() + ". If that is not the hub's own word, a proxy or a firewall rule refuses."
	case t.status == http.StatusNotFound || t.status == http.StatusMethodNotAllowed:
		return "not-found", fmt.Sprintf("The answer is %d%s: the path is not the hub's, or the hub is older than its doctor. A proxy may send /v1/ elsewhere, or cut off a prefix.", t.status, t.detail())
	case t.status == http.StatusServiceUnavailable && t.problem() != "":
		return "busy", "The hub is there, and takes no probe now" + t.detail() + "."
	case t.status >= 502 && t.status <= 504 || t.status >= 520 && t.status <= 530:
		return "bad-gateway", fmt.Sprintf("The answer is %d: the proxy is there, and cannot reach the hub behind it.", t.status)
	case t.status != http.StatusOK:
		return "refused", fmt.Sprintf("The answer is %d%s.", t.status, t.detail())
	}
	kind, _, _ := mime.ParseMediaType(header.Get("Content-Type"))
	switch {
	case t.coding() != "" && !t.gzip:
		return "compressed", fmt.Sprintf("The stream came with Content-Encoding %q, which was not asked for.", t.coding())
	case kind == "text/html":
		return "not-a-stream", "The answer is a page, not a stream: a login page, or an application that answers every path. The proxy has to send /v1/ to the hub."
	case kind != "text/event-stream":
		return "not-a-stream", fmt.Sprintf("The answer is %q, not a stream: something else than the hub answers at this path.", header.Get("Content-Type"))
	case t.expired:
		return "no-answer", fmt.Sprintf("The head of a stream came, but none of its events within %s: something on the way keeps them.", seconds(t.lived))
	}
	return "not-a-stream", "The answer is a stream, but not a probe's: a hub without a doctor, a proxy's stand-in for a hub that is away, or something else."
}

// said is how a trial failed, in short.
func (t *trial) said() string {
	if t.status == 0 {
		return reason(t.err)
	}
	return fmt.Sprintf("status %d", t.status)
}

// problem is the hub's own word in problem details (RFC 9457).
func (t *trial) problem() string {
	var body struct{ Code, Detail string }
	if !strings.HasPrefix(t.header.Get("Content-Type"), "application/problem+json") || json.Unmarshal([]byte(t.body), &body) != nil || body.Code == "" {
		return ""
	}
	return fmt.Sprintf("the hub says %s, %q", body.Code, body.Detail)
}

func (t *trial) detail() string {
	if p := t.problem(); p != "" {
		return " (" + p + ")"
	}
	return ""
}

// reason is an error in words, where ours are better.
func reason(err error) string {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return err.Error() + ". Browsers refuse it too."
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
		return "there is no host " + dns.Name + "."
	}
	if record, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return record.Error() + ": the other side speaks no TLS; say http://."
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return err.Error() + ". Nothing listens there: the hub is not running, or has another address."
	}
	if err == nil {
		return "the connection ended."
	}
	return err.Error() + "."
}
