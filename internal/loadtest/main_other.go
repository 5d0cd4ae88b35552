//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "loadtest needs Linux: it measures with epoll and /proc")
	os.Exit(1)
}
