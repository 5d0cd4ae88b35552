package folder

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofrs/flock"
	"github.com/nats-io/nats-server/v2/server"
)

// Config is how a folder is kept.
type Config struct {
	Dir    string
	Sync   time.Duration // how much of the last writes a power cut may take; 0: none
	Peers  *Peers        // nil: it is alone
	Logger *slog.Logger
}

// Folder is one that this process has.
type Folder struct {
	// Static.
	cfg      Config
	about    about
	lock     *flock.Flock
	torn     atomic.Bool
	unsynced atomic.Bool // a write or a sync has failed since it was opened, so that what was acknowledged may be lost
	door     *door       // nil: other processes cannot reach the server
	end      chan struct{}
	jobs     sync.WaitGroup // watch, and succeed

	replacedEvery time.Duration // how often the leader looks for members that were replaced

	mu     sync.Mutex
	server *running // guarded by mu; nil: none runs now
}

// running is a server, and what it has said.
type running struct {
	server *server.Server
	logs   *logger
	whole  atomic.Bool  // it has had all that its peers have
	looked atomic.Int64 // when it was looked last whether it is whole, in Unix nanoseconds
}

// starts waits until the server can be used. It says whether it can.
func (r *running) starts() bool {
	for begun := time.Now(); time.Since(begun) < startTime && !r.logs.over.Load(); {
		if r.server.ReadyForConnections(100 * time.Millisecond) {
			return r.server.JetStreamEnabled()
		}
	}
	return false
}

// stop ends a server, and returns when its files are closed. A sick disk may hold that up, so
// what is known of it is told first.
func (f *Folder) stop(r *running) {
	f.heed(r)
	r.server.Shutdown()
	r.server.WaitForShutdown()
	f.heed(r)
}

// heed has the next start know that a server may have lost something.
func (f *Folder) heed(r *running) {
	if !r.logs.unsynced.Load() {
		return
	}
	if err := f.tear(); err != nil {
		f.cfg.Logger.Warn("the folder cannot be marked now: unless it is soon, restart the machine or empty the folder's file "+bootName+" before the next start, or nobody is told of what was lost", "folder", f.cfg.Dir, "err", err)
	}
}

// ErrTaken is that another process has the folder.
var ErrTaken = errors.New("another hub has this folder open")

// Open makes the folder if it is not there, takes it, and starts its server.
func Open(cfg Config) (*Folder, error) {
	f := newFolder(cfg)
	if err := f.open(); err != nil {
		return nil, err
	}
	return f, nil
}

func newFolder(cfg Config) *Folder {
	return &Folder{cfg: cfg, end: make(chan struct{}), replacedEvery: replacedEvery}
}

func (f *Folder) open() error {
	if err := f.take(); err != nil {
		return err
	}
	s, err := f.start()
	if err != nil {
		f.lock.Close()
		return err
	}
	f.server = s
	if f.door, err = openDoor(f.cfg.Dir, f, f.cfg.Logger); err != nil {
		f.cfg.Logger.Warn("the folder cannot be backed up while this hub runs", "folder", f.cfg.Dir, "err", err)
	}
	f.jobs.Go(f.watch)
	if f.cfg.Peers != nil {
		f.jobs.Go(f.succeed)
	}
	return nil
}

// take locks the folder and reads what it is.
func (f *Folder) take() (err error) {
	if err := makeDir(f.cfg.Dir); err != nil {
		return err
	}
	if err := notForeign(f.cfg.Dir); err != nil {
		return err
	}
	if err := os.Chmod(f.cfg.Dir, 0o700); errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("the folder's permissions cannot be set to 0700, so that others could read what is kept: name a folder inside it, which is made: %w", err)
	} else if err != nil {
		return err
	}
	f.lock = flock.New(filepath.Join(f.cfg.Dir, lockName), flock.SetPermissions(0o600), flock.SetFlag(os.O_CREATE|os.O_RDWR))
	switch locked, err := f.lock.TryLock(); {
	case err != nil:
		return err
	case !locked:
		owner, _ := os.ReadFile(filepath.Join(f.cfg.Dir, ownerName))
		return fmt.Errorf("%w: %s", ErrTaken, owner)
	}
	defer func() {
		if err != nil {
			f.lock.Close()
		}
	}()
	for _, left := range []string{roomFiles, newFiles} { // by a process that was killed
		names, _ := fs.Glob(os.DirFS(f.cfg.Dir), left) // the folder's own path is no pattern
		for _, name := range names {
			os.Remove(filepath.Join(f.cfg.Dir, name))
		}
	}
	host, _ := os.Hostname()
	if err := os.WriteFile(filepath.Join(f.cfg.Dir, ownerName), fmt.Appendf(nil, "process %d on %s", os.Getpid(), host), 0o600); err != nil {
		return err
	}
	if f.about, err = openAbout(f.cfg.Dir, f.cfg.Peers != nil); err != nil {
		return err
	}
	return f.readState()
}

// startTime is how long a server may take to read what it has kept.
const startTime = 2 * time.Minute

// maxPayload is the largest message of hubs: an event, and what hubs tell each other.
const maxPayload = 8 << 20

// start starts a server on the folder.
func (f *Folder) start() (*running, error) {
	keeper := &doorkeeper{word: f.about.Word}
	o := &server.Options{
		ServerName: f.about.ID, DontListen: true, NoSigs: true, MaxPayload: maxPayload, CustomClientAuthentication: keeper,
		JetStream: true, StoreDir: filepath.Join(f.cfg.Dir, storeName),
		JetStreamMaxMemory: 64 << 20, JetStreamMaxStore: 1 << 60, // what streams may take is bounded by themselves
		SyncInterval: f.cfg.Sync, SyncAlways: f.cfg.Sync == 0,
	}
	if f.cfg.Peers != nil {
		if err := f.cfg.Peers.apply(o); err != nil {
			return nil, err
		}
	}
	s, err := server.NewServer(o)
	if err != nil {
		return nil, err
	}
	keeper.server = s
	r := &running{server: s, logs: newLogger(f.cfg.Logger)}
	s.SetLoggerV2(r.logs, false, false, false)
	s.Start()
	if !r.starts() {
		f.stop(r)
		return nil, fmt.Errorf("what is kept here cannot be opened: %w", r.logs.why())
	}
	return r, nil
}

// lookEvery is how often a server is looked at that may have given up its files.
const lookEvery = time.Second

// watch starts the server again when it has given up, once there is room. JetStream ends
// at a full disk or a write that fails, and does not come back by itself.
func (f *Folder) watch() {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		select {
		case <-f.end:
			return
		case <-ticker.C:
		}
		r := f.current()
		if r != nil && r.server.JetStreamEnabled() && !r.logs.gaveUp.Load() {
			continue
		}
		if r != nil {
			f.cfg.Logger.Error("the folder cannot be written: nothing is kept until it can", "folder", f.cfg.Dir)
			f.replace(nil)
			f.stop(r)
		}
		if f.writable() != nil || f.unsynced.Load() && f.tear() != nil {
			continue
		}
		r, err := f.start()
		if err != nil {
			f.cfg.Logger.Error("the folder cannot be opened again", "folder", f.cfg.Dir, "err", err)
			continue
		}
		f.cfg.Logger.Info("the folder can be written again", "folder", f.cfg.Dir)
		f.replace(r)
	}
}

// current is the server; nil where it has given up.
func (f *Folder) current() *running {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.server
}

func (f *Folder) replace(r *running) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.server = r
}

// roomWanted is how much has to be free before a server is started again: with less it
// would give up at once.
const roomWanted = 1 << 20

// writable says why the folder cannot be written.
func (f *Folder) writable() error {
	file, err := os.CreateTemp(f.cfg.Dir, roomFiles)
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	_, err = file.Write(make([]byte, roomWanted))
	return errors.Join(err, file.Sync(), file.Close())
}

// Close ends the server, and lets go of the folder.
func (f *Folder) Close() {
	close(f.end)
	f.jobs.Wait()
	if f.door != nil {
		f.door.close()
	}
	if r := f.current(); r != nil {
		f.stop(r)
	}
	if err := f.finish(); err != nil {
		f.cfg.Logger.Warn("not all of the folder is known to be on the disk", "folder", f.cfg.Dir, "err", err)
	}
	f.lock.Close()
}
