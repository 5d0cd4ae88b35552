package folder

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// bootFile is where Linux tells which start of the machine this is: another one each time, and
// the same in all of its containers.
const bootFile = "/proc/sys/kernel/random/boot_id"

// boot names this start of the machine; empty where that is not known.
func boot() string {
	text, _ := os.ReadFile(bootFile)
	return strings.TrimSpace(string(text))
}

// readMark says whether a hub has had the folder open, and not all is known to be on the disk; and
// whether the machine has stopped since, or may have, or the disk has failed: the last writes may be
// lost. The file bootName names the start of the machine in which the folder was opened, or nothing
// since a write or a sync has failed. It is taken away once all is on the disk.
func readMark(dir string) (marked, torn bool, err error) {
	text, err := os.ReadFile(filepath.Join(dir, bootName))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return false, false, nil
	case err != nil:
		return false, false, err
	}
	return true, string(text) == "" || string(text) != boot(), nil
}

// Torn says that some of what was acknowledged may be lost: the machine has stopped before it
// was on the disk, or the disk did not take it. It stays so, also after another start, until Settle.
func (f *Folder) Torn() bool { return f.torn.Load() }

// readState reads whether the folder is torn. A hub that waits for each write has what one that did
// not wait has written on the disk first.
func (f *Folder) readState() error {
	marked, torn, err := readMark(f.cfg.Dir)
	f.torn.Store(torn)
	if err == nil && marked && f.cfg.Sync == 0 {
		err = f.sync()
	}
	if err == nil && !torn {
		err = f.Settle()
	}
	return err
}

// Settle says that all who have to know that the folder was torn will be told. From then on what
// is written may be lost again, unless each write is waited for, or others have it.
func (f *Folder) Settle() error {
	f.torn.Store(false)
	switch {
	case f.unsynced.Load():
		return nil // it is torn again, of which the next start tells
	case f.cfg.Sync == 0 || f.cfg.Peers != nil:
		return f.unmark()
	}
	return writeWhole(filepath.Join(f.cfg.Dir, bootName), []byte(boot()))
}

// finish has everything on the disk, and takes the mark away that says it may not be.
func (f *Folder) finish() error {
	if f.torn.Load() { // who has to know was not told
		return nil
	}
	if f.unsynced.Load() {
		return f.tear()
	}
	if err := f.sync(); err != nil {
		return err
	}
	return f.unmark()
}

// sync waits until everything is on the disk.
func (f *Folder) sync() error {
	err := Sync(f.cfg.Dir)
	if err != nil {
		err = errors.Join(err, f.tear())
	}
	return err
}

// tear has the next start find the folder torn, if it is marked: the disk has failed. Linux tells of
// that once, and the next sync succeeds though what was written before may not be on the disk. Where
// the disk takes not even this it is repeated before the folder is used again, and when it is closed.
func (f *Folder) tear() error {
	f.unsynced.Store(true)
	if err := os.Truncate(filepath.Join(f.cfg.Dir, bootName), 0); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (f *Folder) unmark() error {
	if err := os.Remove(filepath.Join(f.cfg.Dir, bootName)); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// Sync waits until all of a folder is on the disk, also one that another process writes to.
func Sync(dir string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, os.ErrNotExist): // it has been removed meanwhile
			return nil
		case err != nil:
			return err
		case entry.IsDir():
			err = SyncDir(path)
		case entry.Type().IsRegular():
			err = syncFile(path)
		}
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	})
}

func syncFile(path string) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}
