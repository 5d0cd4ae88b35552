package webhook

import (
	"errors"
	"net/url"
	"strings"
)

// placeholder is replaced by the tenant whose items are sent.
const placeholder = "{tenant}"

// Endpoint is where batches are sent.
type Endpoint struct {
	text string
	url  *url.URL
}

// ParseEndpoint reads a URL. Its host is always the same: whoever names a tenant cannot have the
// hub call somebody else.
func ParseEndpoint(text string) (*Endpoint, error) {
	u, err := url.Parse(text)
	switch {
	case strings.ContainsAny(strings.ReplaceAll(text, placeholder, ""), "{}"):
		return nil, errors.New("has braces around something else than {tenant}")
	case err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https":
		return nil, errors.New("is not a URL such as https://api.example.com/hooks/{tenant}, with {tenant} in its path or its query alone")
	case u.User != nil:
		return nil, errors.New("has a user or a password; the signature proves who sends")
	case strings.Contains(text, "#"):
		return nil, errors.New("has a fragment, which is never sent")
	}
	return &Endpoint{text, u}, nil
}

// Plain says whether what is sent can be read on its way, to which host.
func (e *Endpoint) Plain() (host string, plain bool) { return e.url.Hostname(), e.url.Scheme == "http" }

// Of is the URL for a tenant.
func (e *Endpoint) Of(tenant string) string {
	return strings.ReplaceAll(e.text, placeholder, url.QueryEscape(tenant)) // of a tenant's characters, what a path takes too
}

// each says whether tenants have an endpoint each.
func (e *Endpoint) each() bool { return strings.Contains(e.text, placeholder) }
