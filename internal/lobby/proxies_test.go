package lobby

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/matryer/is"
)

func TestParseProxies(t *testing.T) {
	is := is.New(t)
	p, err := ParseProxies([]string{"10.0.0.7", " 10.1.2.3/16", "fd00::/8", "::1"})
	is.NoErr(err)
	for addr, want := range map[string]bool{
		"10.0.0.7": true, "10.0.0.8": false, "10.1.255.1": true, "10.2.0.1": false, "fd12::1": true, "fe80::1": false, "::1": true,
	} {
		is.Equal(p.trusts(netip.MustParseAddr(addr)), want)
	}
	for _, bad := range []string{"", "proxy", "10.0.0.0/33", "10.0.0", "::ffff:10.0.0.0/104", "fe80::1%eth0", "10.0.0.1:80"} {
		_, err := ParseProxies([]string{"10.0.0.7", bad})
		is.True(err != nil) // bad
	}
}

// The client is the last address that is no proxy's; what it says of itself does not
// count, nor does anything from who is no proxy.
func TestClientOfARequest(t *testing.T) {
	proxies, err := ParseProxies([]string{"10.0.0.0/8", "fd00::/8"})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		from   string
		header []string
		want   string
	}{
		"none":                     {"10.0.0.1:5", nil, "10.0.0.1:5"},
		"one":                      {"10.0.0.1:5", []string{"203.0.113.7"}, "203.0.113.7:0"},
		"forged before it":         {"10.0.0.1:5", []string{"127.0.0.1, 10.9.9.9,203.0.113.7"}, "203.0.113.7:0"},
		"forged in another line":   {"10.0.0.1:5", []string{"127.0.0.1", "203.0.113.7"}, "203.0.113.7:0"},
		"through two":              {"10.0.0.1:5", []string{"198.51.100.1, 203.0.113.7, 10.0.0.2"}, "203.0.113.7:0"},
		"through two, two lines":   {"10.0.0.1:5", []string{"198.51.100.1", "203.0.113.7", "10.0.0.2"}, "203.0.113.7:0"},
		"within":                   {"10.0.0.1:5", []string{"10.0.0.3"}, "10.0.0.3:0"},
		"untrusted":                {"203.0.113.9:5", []string{"198.51.100.1"}, "203.0.113.9:5"},
		"IPv6":                     {"[fd00::1]:5", []string{"2001:db8::7"}, "[2001:db8::7]:0"},
		"with a port":              {"10.0.0.1:5", []string{"203.0.113.7:4711"}, "203.0.113.7:0"},
		"IPv6 with a port":         {"10.0.0.1:5", []string{"[2001:db8::7]:4711"}, "[2001:db8::7]:0"},
		"IPv4 in IPv6's form":      {"[::ffff:10.0.0.1]:5", []string{"::ffff:203.0.113.7"}, "203.0.113.7:0"},
		"nonsense":                 {"10.0.0.1:5", []string{"unknown"}, "10.0.0.1:5"},
		"nonsense before a proxy":  {"10.0.0.1:5", []string{"unknown, 10.0.0.2"}, "10.0.0.2:0"},
		"nonsense before a client": {"10.0.0.1:5", []string{"unknown, 203.0.113.7"}, "203.0.113.7:0"},
		"empty":                    {"10.0.0.1:5", []string{""}, "10.0.0.1:5"},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			r := httptest.NewRequest("GET", "/", nil)
			r.RemoteAddr = c.from
			r.Header = http.Header{"X-Forwarded-For": c.header}
			proxies.name(r)
			is.Equal(r.RemoteAddr, c.want)
		})
	}
}

// A subscriber's IPv6 network is one place.
func TestPlace(t *testing.T) {
	is := is.New(t)
	for addr, want := range map[string]string{
		"203.0.113.7:1": "203.0.113.7", "[::ffff:203.0.113.7]:1": "203.0.113.7", "[2001:db8:0:1:2:3:4:5]:1": "2001:db8:0:1::", "[::1]:1": "::1", "pipe": "pipe",
	} {
		is.Equal(PlaceOf(&http.Request{RemoteAddr: addr}), want)
	}
}
