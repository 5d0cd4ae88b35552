package main

import "realtimehub/internal/hubtest"

// Short names for what these tests have from hubtest on Linux.
var (
	cabled = hubtest.Cabled
	enter  = hubtest.Enter
)
