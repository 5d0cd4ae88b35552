package main

import (
	"testing"

	"realtimehub/internal/hubtest"
)

// Short names for what these tests have from hubtest.
var (
	contract        = hubtest.Contract
	checked         = hubtest.Checked
	newStreamReader = hubtest.NewReader

	eventJSON    = hubtest.EventJSON
	openEnvelope = hubtest.OpenEnvelope

	claimsOf = hubtest.Claims
	signed   = hubtest.Signed
	bearer   = hubtest.Bearer

	dialAs     = hubtest.Dial
	proxyV1    = hubtest.ProxyV1
	proxyV2    = hubtest.ProxyV2
	rawRequest = hubtest.Request
)

const (
	markerType = hubtest.MarkerType
	testSecret = hubtest.Secret
)

// scrapeFrom are the metrics of a hub in open mode, by way of loopback.
func scrapeFrom(t testing.TB, url string) scraped {
	t.Helper()
	return scraped((&hubtest.Hub{URL: url}).Scrape(t))
}
