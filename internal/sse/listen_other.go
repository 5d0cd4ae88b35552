//go:build !linux

package sse

// Elsewhere keep-alive is what the system has it be.
func limit(uintptr) error  { return nil }
func spreadProbes(uintptr) {}
