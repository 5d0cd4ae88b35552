package folder

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/uuid"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// version is that of what a folder holds. A hub opens folders of its own version only.
const version = 1

// The folder's entries.
const (
	aboutName = "realtimehub.json" // what the folder is
	lockName  = "lock"             // held by the process that has the folder
	storeName = "jetstream"        // the server's
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
	cfg   Config
	about about
	lock  *flock.Flock
	word  string // with which the hub alone connects to its server
	end   chan struct{}
	ended chan struct{}

	mu     sync.Mutex
	server *running // guarded by mu; nil: none runs now
}

// running is a server, and what it has said.
type running struct {
	*server.Server
	logs *logger
}

// about is what a folder says of itself.
type about struct {
	Version int    `json:"version"`
	ID      string `json:"id"` // its server's name, wherever it is moved to
}

// ErrTaken is that another process has the folder.
var ErrTaken = errors.New("another hub has this folder open")

// Open makes the folder if it is not there, takes it, and starts its server.
func Open(cfg Config) (*Folder, error) {
	f := &Folder{cfg: cfg, word: rand.Text(), end: make(chan struct{}), ended: make(chan struct{})}
	if err := f.take(); err != nil {
		return nil, err
	}
	s, err := f.start()
	if err != nil {
		f.lock.Close()
		return nil, err
	}
	f.server = s
	go f.watch()
	return f, nil
}

// take locks the folder and reads what it is.
func (f *Folder) take() (err error) {
	if err := os.MkdirAll(f.cfg.Dir, 0o700); err != nil {
		return err
	}
	f.lock = flock.New(filepath.Join(f.cfg.Dir, lockName), flock.SetPermissions(0o600), flock.SetFlag(os.O_CREATE|os.O_RDWR))
	switch locked, err := f.lock.TryLock(); {
	case err != nil:
		return err
	case !locked:
		holder, _ := os.ReadFile(f.lock.Path())
		return fmt.Errorf("%w: %s", ErrTaken, holder)
	}
	defer func() {
		if err != nil {
			f.lock.Close()
		}
	}()
	host, _ := os.Hostname()
	if err := os.WriteFile(f.lock.Path(), fmt.Appendf(nil, "process %d on %s", os.Getpid(), host), 0o600); err != nil {
		return err
	}
	if err := os.Chmod(f.cfg.Dir, 0o700); err != nil { // what people said is nobody else's
		return err
	}
	f.about, err = readAbout(f.cfg.Dir)
	return err
}

// readAbout reads what a folder is, or says it in one that is new.
func readAbout(dir string) (a about, err error) {
	path := filepath.Join(dir, aboutName)
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if _, err := os.Stat(filepath.Join(dir, storeName)); err == nil {
			return a, fmt.Errorf("%s is missing beside %s: this is no folder of a hub, or not all of one", aboutName, storeName)
		}
		a = about{version, uuid.NewString()}
		text, _ = json.Marshal(a)
		return a, writeWhole(path, text)
	case err != nil:
		return a, err
	}
	if err := json.Unmarshal(text, &a); err != nil || a.ID == "" {
		return a, fmt.Errorf("%s cannot be read: it says %q", path, text)
	}
	if a.Version != version {
		return a, fmt.Errorf("the folder is of version %d, and this hub reads version %d", a.Version, version)
	}
	return a, nil
}

// writeWhole writes a file that is there as a whole or not at all, also after a power cut.
func writeWhole(path string, text []byte) error {
	file, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	_, err = file.Write(text)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}

// startTime is how long a server may take to read what it has kept.
const startTime = 2 * time.Minute

// start starts a server on the folder.
func (f *Folder) start() (*running, error) {
	o := &server.Options{
		ServerName: f.about.ID, DontListen: true, NoSigs: true, MaxPayload: maxPayload,
		JetStream: true, StoreDir: filepath.Join(f.cfg.Dir, storeName),
		JetStreamMaxMemory: 64 << 20, JetStreamMaxStore: 1 << 60, // what streams may take is bounded by themselves
		SyncInterval: f.cfg.Sync, SyncAlways: f.cfg.Sync == 0,
	}
	if f.cfg.Peers != nil {
		if err := f.cfg.Peers.apply(o, f.word); err != nil {
			return nil, err
		}
	}
	s, err := server.NewServer(o)
	if err != nil {
		return nil, err
	}
	logs := &logger{log: f.cfg.Logger}
	s.SetLoggerV2(logs, false, false, false)
	s.Start()
	if !s.ReadyForConnections(startTime) || !s.JetStreamEnabled() {
		s.Shutdown()
		s.WaitForShutdown()
		return nil, fmt.Errorf("what is kept here cannot be opened: %w", logs.why())
	}
	return &running{s, logs}, nil
}

// maxPayload is the largest message of hubs: an event, and what hubs tell each other.
const maxPayload = 8 << 20

// InProcessConn implements nats.InProcessConnProvider.
func (f *Folder) InProcessConn() (net.Conn, error) {
	s := f.current()
	if s == nil {
		return nil, errStopped
	}
	return s.InProcessConn()
}

var errStopped = errors.New("the folder cannot be written at the moment")

// Connect is the option with which a client connects to the folder's server.
func (f *Folder) Connect() nats.Option {
	return func(o *nats.Options) error {
		o.InProcessServer, o.Token = f, f.word
		return nil
	}
}

// lookEvery is how often a server is looked at that may have given up its files.
const lookEvery = time.Second

// watch starts the server again when it has given up, once there is room. JetStream ends
// at a full disk or a write that fails, and does not come back by itself.
func (f *Folder) watch() {
	defer close(f.ended)
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		select {
		case <-f.end:
			return
		case <-ticker.C:
		}
		s := f.current()
		if s != nil && s.JetStreamEnabled() && !s.logs.gaveUp.Load() {
			continue
		}
		if s != nil {
			f.cfg.Logger.Error("the folder cannot be written: nothing is kept until it can", "folder", f.cfg.Dir)
			f.replace(nil)
			s.Shutdown()
			s.WaitForShutdown()
		}
		if f.writable() != nil {
			continue
		}
		s, err := f.start()
		if err != nil {
			f.cfg.Logger.Error("the folder cannot be opened again", "folder", f.cfg.Dir, "err", err)
			continue
		}
		f.cfg.Logger.Info("the folder can be written again", "folder", f.cfg.Dir)
		f.replace(s)
	}
}

// current is the server; nil where it has given up.
func (f *Folder) current() *running {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.server
}

func (f *Folder) replace(s *running) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.server = s
}

// roomWanted is how much has to be free before a server is started again: with less it
// would give up at once.
const roomWanted = 1 << 20

// writable says why the folder cannot be written.
func (f *Folder) writable() error {
	file, err := os.CreateTemp(f.cfg.Dir, ".room-*")
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
	<-f.ended
	if s := f.server; s != nil {
		s.Shutdown()
		s.WaitForShutdown()
	}
	f.lock.Close()
}
