package backup

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"time"

	"github.com/nats-io/nats.go"

	"realtimehub/internal/folder"
	"realtimehub/internal/settings"
)

// connect connects to what the settings name: NATS servers, a folder that a hub has open, or
// one that nobody has, which make may make.
func connect(cfg settings.Config, make bool) (nc *nats.Conn, leave func(), err error) {
	options := []nats.Option{nats.Name("realtimehub"), nats.NoReconnect()}
	if cfg.NATSURL != "" {
		if cfg.NATSCreds != "" {
			options = append(options, nats.UserCredentials(cfg.NATSCreds))
		}
		nc, err = nats.Connect(cfg.NATSURL, options...)
		if inURL, ok := errors.AsType[*url.Error](err); ok {
			err = inURL.Err // it repeats the URL, which may hold a secret
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%sNATS_URL: %w", settings.Prefix, err)
		}
		return nc, nc.Close, nil
	}
	if cfg.Data == "" {
		return nil, nil, fmt.Errorf("neither %[1]sDATA nor %[1]sNATS_URL is set: one of them says what to back up, or where to restore", settings.Prefix)
	}
	if nc, leave, err = reach(cfg, make, options); err != nil {
		return nil, nil, fmt.Errorf("%sDATA: %s: %w", settings.Prefix, cfg.Data, err)
	}
	return nc, leave, nil
}

var (
	errNoHub = errors.New("no hub runs on the folder: what it keeps with others can be reached only through one of them that runs")
	errFull  = errors.New("the hub that runs on the folder cannot write it now: its log says why")
)

// reach connects to a folder.
func reach(cfg settings.Config, make bool, options []nats.Option) (nc *nats.Conn, leave func(), err error) {
	inside, err := folder.Visit(cfg.Data)
	if err != nil && !(make && errors.Is(err, os.ErrNotExist)) {
		return nil, nil, err
	}
	if err == nil && folder.Taken(cfg.Data) {
		if nc, err = nats.Connect("", append(options, inside)...); err != nil {
			return nil, nil, fmt.Errorf("%w (%w)", errFull, err)
		}
		return nc, nc.Close, nil
	}
	if len(cfg.Peers) > 0 {
		return nil, nil, errNoHub
	}
	f, err := folder.Open(folder.Config{Dir: cfg.Data, Sync: time.Duration(cfg.Sync), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, nil, err
	}
	if nc, err = nats.Connect("", append(options, f.Connect())...); err != nil {
		f.Close()
		return nil, nil, err
	}
	return nc, func() { nc.Close(); f.Close() }, nil
}

// replicas is how many are to keep what is restored; of a folder it is the folder that knows.
func replicas(cfg settings.Config) int {
	if cfg.Data != "" {
		return folder.Copies(cfg.Data)
	}
	return cfg.Replicas()
}
