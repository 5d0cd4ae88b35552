package serve

import (
	"errors"
	"fmt"
	"syscall"
)

// CannotListen says of which setting an address is, and what most often is wrong with it.
func CannotListen(setting string, err error) error {
	remedy := ""
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		remedy = "; another program uses this port, perhaps a hub that is still running: stop it, or set another port"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		remedy = "; give an address of this machine, or none to listen on all (:8080)"
	case errors.Is(err, syscall.EACCES):
		remedy = "; ports below 1024 need a privilege: set another"
	}
	return fmt.Errorf("%s: %w%s", setting, err, remedy)
}
