//go:build !linux

package engine

import "net"

// Quick is the connection itself.
func Quick(c net.Conn) net.Conn { return c }
