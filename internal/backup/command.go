package backup

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"

	"realtimehub/internal/folder"
	"realtimehub/internal/settings"
)

// Command backs up to a file, or restores from one, what the settings name. A hub that runs
// on the folder goes on.
func Command(ctx context.Context, name string, args, environ []string, out io.Writer) error {
	if len(args) != 1 {
		return fmt.Errorf("%s takes one file, not %d", name, len(args))
	}
	cfg, err := settings.Load(environ)
	if err != nil {
		return err
	}
	file, work := args[0], save
	if name == "restore" {
		work = load
		if err := checkFile(file, cfg.NATSPrefix); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	nc, leave, err := connect(cfg, name == "restore")
	if err != nil {
		return err
	}
	defer leave()
	begun := time.Now()
	s, err := work(ctx, nc, cfg, file)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	fmt.Fprintf(out, "%s of %s: %d messages, %d KiB, in %.1f s\n", name, file, s.Messages, s.Bytes>>10, time.Since(begun).Seconds())
	return nil
}

func checkFile(path, prefix string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	return Check(bufio.NewReader(file), prefix)
}

// save writes a file that is there as a whole or not at all.
func save(ctx context.Context, nc *nats.Conn, cfg settings.Config, path string) (s Summary, err error) {
	file, err := os.CreateTemp(filepath.Dir(path), ".backup-*") // for its owner alone
	if err != nil {
		return s, err
	}
	defer os.Remove(file.Name())
	to := bufio.NewWriterSize(file, 1<<20)
	s, err = Write(ctx, nc, cfg.NATSPrefix, to)
	if err == nil {
		err = to.Flush()
	}
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return s, err
	}
	return s, os.Rename(file.Name(), path)
}

func load(ctx context.Context, nc *nats.Conn, cfg settings.Config, path string) (s Summary, err error) {
	file, err := os.Open(path)
	if err != nil {
		return s, err
	}
	defer file.Close()
	return Read(ctx, nc, cfg.NATSPrefix, cfg.Replicas(), bufio.NewReaderSize(file, 1<<20))
}

// connect connects to what the settings name: NATS servers, a folder that a hub has open, or
// one that nobody has, which make may make.
func connect(cfg settings.Config, make bool) (nc *nats.Conn, leave func(), err error) {
	options := []nats.Option{nats.Name("realtimehub"), nats.NoReconnect()}
	if cfg.NATSURL != "" {
		if cfg.NATSCreds != "" {
			options = append(options, nats.UserCredentials(cfg.NATSCreds))
		}
		if nc, err = nats.Connect(cfg.NATSURL, options...); err != nil {
			return nil, nil, fmt.Errorf("%sNATS_URL: %w", settings.Prefix, err)
		}
		return nc, nc.Close, nil
	}
	if cfg.Data == "" {
		return nil, nil, fmt.Errorf("%[1]sDATA or %[1]sNATS_URL says what is meant, and neither is set", settings.Prefix)
	}
	inside, shut, err := reach(cfg, make)
	if err == nil {
		if nc, err = nats.Connect("", append(options, inside)...); err != nil {
			shut()
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%sDATA: %s: %w", settings.Prefix, cfg.Data, err)
	}
	return nc, func() { nc.Close(); shut() }, nil
}

// reach is the way into a folder.
func reach(cfg settings.Config, make bool) (inside nats.Option, leave func(), err error) {
	inside, err = folder.Visit(cfg.Data)
	if err != nil && !(make && errors.Is(err, os.ErrNotExist)) {
		return nil, nil, err
	}
	if err == nil && folder.Taken(cfg.Data) {
		return inside, func() {}, nil
	}
	if len(cfg.Peers) > 0 {
		return nil, nil, errors.New("no hub runs on the folder, and what it keeps with others can be reached through one that runs alone")
	}
	f, err := folder.Open(folder.Config{Dir: cfg.Data, Sync: time.Duration(cfg.Sync), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, nil, err
	}
	return f.Connect(), f.Close, nil
}
