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
		remedy = "; another program has this port, perhaps a hub that was started before: end it, or set another"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		remedy = "; give one of this machine's, or none for all (:8080)"
	case errors.Is(err, syscall.EACCES):
		remedy = "; ports below 1024 take a privilege: set another"
	}
	return fmt.Errorf("%s: %w%s", setting, err, remedy)
}
