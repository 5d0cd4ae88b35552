package backup

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"realtimehub/internal/broker/stream"
	"realtimehub/internal/folder"
	"realtimehub/internal/settings"
)

// Command backs up to a file, or restores from one, what the settings name. A hub that runs
// on the folder goes on. The file "-" is out, or standard input.
func Command(ctx context.Context, name string, args, environ []string, out io.Writer) error {
	if len(args) != 1 {
		return fmt.Errorf("%[1]s takes one file, not %[2]d: realtimehub %[1]s FILE", name, len(args))
	}
	file, restoring, says := args[0], name == "restore", out
	switch {
	case file == piped && !restoring:
		says = os.Stderr
	case file != piped && strings.HasPrefix(file, "-"):
		return fmt.Errorf("%s has no option %s: it takes a file, or - for standard input and output", name, file)
	}
	cfg, err := settings.Load(environ)
	if err != nil {
		return fmt.Errorf("%[2]w\n%[1]s takes all of the hub's settings, or %[3]sDATA or %[3]sNATS_URL without the others", name, err, settings.Prefix)
	}
	if restoring && file != piped { // before a folder is made for it
		if err := checkFile(file, cfg.NATSPrefix); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	nc, leave, err := connect(cfg, restoring)
	if err != nil {
		return err
	}
	defer leave()
	begun := time.Now()
	var s Summary
	switch {
	case restoring:
		s, err = load(ctx, nc, cfg, file)
		if cfg.Data != "" && (err == nil || errors.Is(err, errRestored)) {
			err = errors.Join(err, synced(cfg.Data))
		}
	case file == piped:
		s, err = Save(ctx, nc, cfg.NATSPrefix, out)
	default:
		s, err = save(ctx, nc, cfg.NATSPrefix, file)
	}
	switch interrupted := errors.Is(err, context.Canceled); {
	case interrupted && errors.Is(err, stream.ErrLeft):
		err = fmt.Errorf("%s was interrupted: %w", name, err)
	case interrupted:
		err = fmt.Errorf("%s was interrupted, and nothing is left of it: %w", name, err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	fmt.Fprintf(says, "%s of %s: %d records (events, memberships and what goes with them), %d KiB, in %.1f s\n", name, file, s.Messages, s.Bytes>>10, time.Since(begun).Seconds())
	return nil
}

// synced waits until what was restored is on a folder's disk: its server writes it without
// waiting, whatever REALTIME_SYNC says.
func synced(dir string) error {
	if err := folder.Sync(dir); err != nil {
		return fmt.Errorf("%w, but it is not known to be on the disk: %w", errRestored, err)
	}
	return nil
}

// piped is the file that is none.
const piped = "-"

func checkFile(path, prefix string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	return Check(bufio.NewReader(file), prefix)
}

// save writes a file that is there as a whole or not at all, also after a power cut.
func save(ctx context.Context, nc *nats.Conn, prefix, path string) (s Summary, err error) {
	file, err := os.CreateTemp(filepath.Dir(path), ".backup-*") // for its owner alone
	if err != nil {
		return s, err
	}
	defer os.Remove(file.Name())
	to := bufio.NewWriterSize(file, 1<<20)
	s, err = Save(ctx, nc, prefix, to)
	if err == nil {
		err = to.Flush()
	}
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return s, err
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return s, err
	}
	return s, folder.SyncDir(filepath.Dir(path))
}

func load(ctx context.Context, nc *nats.Conn, cfg settings.Config, path string) (s Summary, err error) {
	file := os.Stdin
	if path != piped {
		if file, err = os.Open(path); err != nil {
			return s, err
		}
		defer file.Close()
	}
	for try := 1; ; try++ {
		s, err = Restore(ctx, nc, cfg.NATSPrefix, replicas(cfg), bufio.NewReaderSize(file, 1<<20))
		if path == piped || !errors.Is(err, errUnfinished) || try == loadTries {
			return s, err
		}
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			return s, err
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return s, errors.Join(err, ctx.Err())
		}
	}
}

// loadTries is how often a file is restored while the server is still removing what was there.
const loadTries = 10
