package access

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
)

// origins are those whose pages may call: one rule for CORS and for cookies.
// They are compared as browsers write them (RFC 6454, section 6.2).
type origins struct {
	all   bool // any page may call, but none with a cookie
	exact map[string]bool
	below []originsBelow
}

// originsBelow are the origins of all hosts below a name, at any depth.
type originsBelow struct{ scheme, name string } // "https://" and ".example.com", with its port

// newOrigins reads a list such as https://app.example.com, https://*.example.com. Each error
// begins with the setting's name, and gives the number of the entry, not its text.
func newOrigins(list []string) (*origins, error) {
	o := &origins{exact: map[string]bool{}}
	var errs []error
	for i, text := range list {
		if text == "*" {
			o.all = true
			continue
		}
		scheme, host, err := parseOrigin(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("CORS_ORIGINS is not valid: entry %d %w", i+1, err))
		} else if name, wild := strings.CutPrefix(host, "*"); wild {
			o.below = append(o.below, originsBelow{scheme, name})
		} else {
			o.exact[scheme+host] = true
		}
	}
	return o, errors.Join(errs...)
}

// hostName is a host as browsers write it: in ASCII, with punycode for other letters.
var hostName = regexp.MustCompile(`^(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?$`)

// parseOrigin returns "https://" and "app.example.com:8443" as browsers write them.
func parseOrigin(text string) (scheme, host string, err error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme == "" || u.User != nil || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
		return "", "", errors.New("is not an origin such as https://app.example.com, which has no path")
	}
	name, port := strings.ToLower(u.Hostname()), u.Port()
	ip, err := netip.ParseAddr(name)
	below, wild := strings.CutPrefix(name, "*.")
	switch {
	case err == nil:
		if name = ip.String(); ip.Is6() {
			name = "[" + name + "]"
		}
	case !isASCII(name):
		return "", "", errors.New("has letters that browsers write in punycode (xn--…): new URL('…').origin in a browser's console shows the right form")
	case !hostName.MatchString(name):
		return "", "", errors.New("is not an origin: * may stand only for all subdomains of a host, as in https://*.example.com")
	case wild && !strings.Contains(strings.TrimSuffix(below, "."), ".") && below != "localhost":
		return "", "", errors.New("covers nearly every origin: name a domain, as in https://*.example.com, or allow all origins with * alone")
	}
	if port != "" && port != map[string]string{"http": "80", "https": "443"}[u.Scheme] {
		name = name + ":" + port
	}
	return u.Scheme + "://", name, nil
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r > 0x7f })
}

// allows says whether a page of this origin, as its browser wrote it, may call.
func (o *origins) allows(origin string) bool { return o.all || o.listed(origin) }

// trusts says whether it may do so with a cookie.
func (o *origins) trusts(origin string) bool { return !o.all && o.listed(origin) }

func (o *origins) none() bool { return !o.all && len(o.exact) == 0 && len(o.below) == 0 }

func (o *origins) listed(origin string) bool {
	if o.exact[origin] {
		return true
	}
	for _, b := range o.below {
		rest, ok := strings.CutPrefix(origin, b.scheme)
		if host, found := strings.CutSuffix(rest, b.name); ok && found && hostName.MatchString(host) && host[0] != '*' {
			return true
		}
	}
	return false
}

// IsOnLoopback says whether an origin's page is served by this machine.
func IsOnLoopback(origin string) bool {
	u, err := url.Parse(origin)
	return err == nil && IsLoopback(u.Hostname())
}

// hostOf is a Host header without its port.
func hostOf(header string) string {
	if name, _, err := net.SplitHostPort(header); err == nil {
		header = name
	}
	return strings.Trim(header, "[]")
}

// IsLoopback says whether a host is this machine and no other.
func IsLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && ip.Unmap().IsLoopback()
}
