package lobby

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// Proxies are the addresses that are trusted to say for whom they ask.
type Proxies []netip.Prefix

// ParseProxies reads addresses ("10.0.0.7") and ranges ("10.0.0.0/8").
func ParseProxies(list []string) (p Proxies, err error) {
	for _, text := range list {
		text = strings.TrimSpace(text)
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			addr, err := netip.ParseAddr(text)
			if err != nil || addr.Zone() != "" {
				return nil, errors.New("is not a list of addresses and ranges such as 10.0.0.7,10.1.0.0/16,fd00::/8")
			}
			prefix = netip.PrefixFrom(addr, addr.BitLen())
		}
		if prefix.Addr().Is4In6() {
			return nil, errors.New("has an IPv4 address written as IPv6: write it as IPv4")
		}
		p = append(p, prefix.Masked())
	}
	return p, nil
}

func (p Proxies) trusts(addr netip.Addr) bool {
	for _, prefix := range p {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}

// client is for whom a request came that a proxy passed on: the last address in
// X-Forwarded-For that is no proxy's. What is before that may be the client's own
// invention. It is the proxy where that does not say whom it acts for.
func (p Proxies) client(from netip.Addr, header http.Header) netip.Addr {
	lines := header["X-Forwarded-For"]
	for i := len(lines) - 1; i >= 0; i-- {
		rest := lines[i]
		for more := true; more; {
			if !p.trusts(from) {
				return from
			}
			var last string
			if comma := strings.LastIndexByte(rest, ','); comma >= 0 {
				rest, last = rest[:comma], rest[comma+1:]
			} else {
				last, more = rest, false
			}
			addr, ok := parseAddress(strings.TrimSpace(last))
			if !ok {
				return from
			}
			from = addr
		}
	}
	return from
}

// parseAddress reads an address, which some proxies write with the port.
func parseAddress(text string) (netip.Addr, bool) {
	if addr, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
		return addr.Unmap().WithZone(""), true
	}
	if port, err := netip.ParseAddrPort(text); err == nil {
		return port.Addr().Unmap().WithZone(""), true
	}
	return netip.Addr{}, false
}

// addressOf is the address of a connection's other end; of what is no TCP none.
func addressOf(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}

// Place is what counts as one address: of IPv6 the network that a subscriber has
// (RFC 6177), in which any address may be chosen.
func Place(addr netip.Addr) netip.Addr {
	if !addr.Is6() || addr.IsLoopback() {
		return addr
	}
	prefix, _ := addr.Prefix(64)
	return prefix.Addr()
}

// PlaceOf is the place that a request came from, by its RemoteAddr.
func PlaceOf(r *http.Request) string {
	if from, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		return Place(from.Addr().Unmap().WithZone("")).String()
	}
	return r.RemoteAddr
}
