package main

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/rs/cors"
)

// shared lets pages of other origins call, where some are configured: with the
// credentials that a browser adds by itself only those named, never all.
func shared(handler http.Handler, origins []string) http.Handler {
	if len(origins) == 0 {
		return handler
	}
	return cors.New(cors.Options{
		AllowedOrigins:   origins,
		AllowedMethods:   []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"},
		AllowedHeaders:   []string{"Authorization", "X-API-Key", "Content-Type", "Last-Event-ID", "X-Tenant-Id", "X-Profile-Id", "Cache-Control", "Traceparent"},
		ExposedHeaders:   []string{"Retry-After", "WWW-Authenticate"},
		AllowCredentials: !slices.Contains(origins, "*"),
		MaxAge:           600,
	}).Handler(handler)
}

// fromElsewhere refuses, in open mode on loopback, a Host that is not this
// machine's (DNS rebinding) and what a page of another site sends.
func fromElsewhere(r *http.Request) error {
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if !isLoopback(strings.Trim(host, "[]")) {
		return errForeignHost
	}
	switch r.Header.Get("Sec-Fetch-Site") {
	case "same-origin", "same-site", "none":
	case "": // an older browser, or none
		if origin := r.Header.Get("Origin"); origin != "" {
			if u, err := url.Parse(origin); err != nil || !isLoopback(u.Hostname()) {
				return errForeignSite
			}
		}
	default:
		return errForeignSite
	}
	return nil
}

// isLoopback says whether a host is this machine and no other.
func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && ip.Unmap().IsLoopback()
}
