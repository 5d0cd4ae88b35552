package folder

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// InProcessConn implements nats.InProcessConnProvider.
func (f *Folder) InProcessConn() (net.Conn, error) {
	r := f.current()
	if r == nil {
		return nil, errStopped
	}
	return r.server.InProcessConn()
}

var errStopped = errors.New("the folder cannot be written at the moment")

// Connect is the option with which a client connects to the folder's server.
func (f *Folder) Connect() nats.Option { return inside(f, f.about.Word) }

func inside(to nats.InProcessConnProvider, word string) nats.Option {
	return func(o *nats.Options) error {
		o.InProcessServer, o.Token = to, word
		return nil
	}
}

// Visit is the option with which another process connects to the server of a folder that a
// hub has open. Who may read the folder may do so.
func Visit(dir string) (nats.Option, error) {
	a, err := readAbout(dir)
	return inside(visitor(filepath.Join(dir, doorName)), a.Word), err
}

// Copies is how many hubs keep each thing that a folder has; 1 where there is no folder.
func Copies(dir string) int {
	if a, err := readAbout(dir); err == nil && a.Peers {
		return copies
	}
	return 1
}

// Taken says whether a hub has the folder open.
func Taken(dir string) bool {
	conn, err := net.Dial("unix", filepath.Join(dir, doorName))
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// visitor connects to a door.
type visitor string

// InProcessConn implements nats.InProcessConnProvider.
func (v visitor) InProcessConn() (net.Conn, error) { return net.Dial("unix", string(v)) }

// door is a Unix socket in the folder, at which other processes reach the server inside.
type door struct {
	listener net.Listener
	visits   sync.WaitGroup

	mu   sync.Mutex
	open map[net.Conn]struct{} // guarded by mu; nil: closed
}

func openDoor(dir string, to nats.InProcessConnProvider, logger *slog.Logger) (*door, error) {
	path := filepath.Join(dir, doorName)
	os.Remove(path) // of a process that was killed: the folder is ours
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	d := &door{listener: l, open: map[net.Conn]struct{}{}}
	d.visits.Go(func() { d.accept(to, logger) })
	return d, nil
}

// acceptPause is how long a door waits that could let nobody in, as when descriptors run out.
const acceptPause = 100 * time.Millisecond

// accept lets other processes in until the door is closed.
func (d *door) accept(to nats.InProcessConnProvider, logger *slog.Logger) {
	failing := false // which was told
	for {
		outside, err := d.listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err == nil:
			failing = false
			d.visits.Go(func() { d.lead(outside, to) })
			continue
		case !failing:
			failing = true
			logger.Warn("the folder cannot be backed up at the moment: nobody can be let in", "err", err)
		}
		time.Sleep(acceptPause)
	}
}

// lead passes on what both sides say, until one of them ends.
func (d *door) lead(outside net.Conn, to nats.InProcessConnProvider) {
	defer outside.Close()
	inside, err := to.InProcessConn()
	if err != nil {
		return
	}
	defer inside.Close()
	if !d.enter(outside) {
		return
	}
	defer d.leave(outside)
	var both sync.WaitGroup
	pass := func(to, from net.Conn) {
		io.Copy(to, from)
		to.Close() // which ends the other way too, once all of it has arrived
	}
	both.Go(func() { pass(outside, inside) })
	both.Go(func() { pass(inside, outside) })
	both.Wait()
}

func (d *door) enter(c net.Conn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open == nil {
		return false
	}
	d.open[c] = struct{}{}
	return true
}

func (d *door) leave(c net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.open, c)
}

// close ends all visits.
func (d *door) close() {
	d.listener.Close()
	d.mu.Lock()
	for c := range d.open {
		c.Close()
	}
	d.open = nil
	d.mu.Unlock()
	d.visits.Wait()
}
