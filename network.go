package main

import (
	"net/http"
	"net/netip"
)

// clientAddress is where a request comes from; invalid where that is no address.
func clientAddress(r *http.Request) netip.Addr {
	from, _ := netip.ParseAddrPort(r.RemoteAddr)
	return from.Addr().Unmap().WithZone("")
}

// networkOf is what one party has: an IPv4 address, or the /64 of an IPv6 one, in which
// it can take any (RFC 6177). Of what is no address it is one for all.
func networkOf(a netip.Addr) netip.Prefix {
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	network, _ := a.Prefix(bits)
	return network
}
