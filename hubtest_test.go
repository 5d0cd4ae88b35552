package main

import (
	"testing"

	"realtimehub/internal/hubtest"
)

// Short names for what these tests have from hubtest.
var (
	contract        = hubtest.Contract
	checked         = hubtest.Checked
	checkedClient   = hubtest.CheckedClient
	newStreamReader = hubtest.NewReader

	eventJSON    = hubtest.EventJSON
	openEnvelope = hubtest.OpenEnvelope
	lacks        = hubtest.Lacks

	claimsOf         = hubtest.Claims
	signed           = hubtest.Signed
	bearer           = hubtest.Bearer
	writeCertificate = hubtest.WriteCertificate
	rootsOf          = hubtest.RootsOf
	transports       = hubtest.Transports
	transportTo      = hubtest.TransportTo

	dialAs     = hubtest.Dial
	proxyV1    = hubtest.ProxyV1
	proxyV2    = hubtest.ProxyV2
	rawRequest = hubtest.Request
	streamOn   = hubtest.StreamOn

	fencedBlock = hubtest.FencedBlock
	blocksOf    = hubtest.Blocks
	shellBlocks = hubtest.ShellBlocks
)

const (
	markerType = hubtest.MarkerType
	testSecret = hubtest.Secret
)

type streamReader = hubtest.Reader

// scrapeFrom are the metrics of a hub in open mode, by way of loopback.
func scrapeFrom(t testing.TB, url string) scraped {
	t.Helper()
	return scraped((&hubtest.Hub{URL: url}).Scrape(t))
}
