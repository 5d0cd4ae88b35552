package folder

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"

	"github.com/google/uuid"
)

// version is that of what a folder holds. A hub opens folders of its own version only.
const version = 1

// The folder's entries.
const (
	aboutName = "realtimehub.json" // what the folder is
	lockName  = "lock"             // held by the process that has the folder
	ownerName = "process"          // which process that is; on Windows nobody else can read what is locked
	storeName = "jetstream"        // the server's
	doorName  = "hub.sock"         // where other processes reach the server
	bootName  = "open"             // since which start of the machine not all may be on its disk
)

// Files that are there for a moment.
const (
	roomFiles = ".room-*" // to see whether there is room
	newFiles  = ".new-*"  // until they have their names
)

// about is what a folder says of itself.
type about struct {
	Version int    `json:"version"`
	ID      string `json:"id"`    // its server's name, wherever it is moved to
	Word    string `json:"word"`  // with which clients connect to the server: who can read the folder
	Peers   bool   `json:"peers"` // it is a part of what several folders keep
}

// openAbout reads what a folder is, or says it in one that is new.
func openAbout(dir string, peers bool) (about, error) {
	a, err := readAbout(dir)
	if errors.Is(err, os.ErrNotExist) {
		a = about{version, uuid.NewString(), rand.Text(), peers}
		text, _ := json.Marshal(a)
		return a, writeWhole(filepath.Join(dir, aboutName), text)
	}
	switch {
	case err != nil:
	case a.Peers && !peers: // a server without the others would wait for them, and one with others would throw away what they do not know
		err = errors.New("the folder is part of what several hubs keep: it cannot be opened without them (docs/folder.md tells how to come from three to one)")
	case !a.Peers && peers:
		err = errors.New("the folder is of a hub alone, and cannot become one of several: back it up, and restore that into new folders (docs/folder.md tells how)")
	}
	return a, err
}

// notForeign refuses a folder that has what is no hub's, of which nothing is changed. A disk's
// own lost+found may be there, and names that begin with a dot.
func notForeign(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		switch name := entry.Name(); {
		case name == aboutName:
			return nil
		case slices.Contains([]string{lockName, ownerName, "lost+found"}, name) || name[0] == '.':
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, aboutName)); err == nil { // it has just been written
			return nil
		}
		return fmt.Errorf("%s is there and %s is not: this is no folder of a hub, or not all of one", entry.Name(), aboutName)
	}
	return nil
}

func readAbout(dir string) (a about, err error) {
	path := filepath.Join(dir, aboutName)
	text, err := os.ReadFile(path)
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal(text, &a); err != nil || a.ID == "" {
		return a, fmt.Errorf("%s cannot be read: it has %d bytes, and is not what a hub writes", path, len(text))
	}
	if a.Version != version {
		return a, fmt.Errorf("the folder is of version %d, and this hub reads version %d", a.Version, version)
	}
	return a, nil
}

// writeWhole writes a file that is there as a whole or not at all, also after a power cut.
func writeWhole(path string, text []byte) error {
	file, err := os.CreateTemp(filepath.Dir(path), newFiles)
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	_, err = file.Write(text)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// SyncDir waits until the names in a directory are on the disk, where its file system can be asked
// for that. Windows needs none.
func SyncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	err = dir.Sync()
	if runtime.GOOS == "windows" || errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		err = nil
	}
	return errors.Join(err, dir.Close())
}

// makeDir makes a directory, and those that it is in, if they are not there. Their names are on the
// disk then; who may not read what they are in cannot wait for that.
func makeDir(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	above := filepath.Dir(path)
	if err := makeDir(above); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := SyncDir(above); !errors.Is(err, os.ErrPermission) {
		return err
	}
	return nil
}
