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

// readTorn says whether the machine has stopped while a hub had the folder open, or may have:
// the last writes may be lost. The file bootName names the start of the machine in which the
// folder was opened, and is taken away once all is on the disk.
func readTorn(dir string) (bool, error) {
	text, err := os.ReadFile(filepath.Join(dir, bootName))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	}
	return string(text) == "" || string(text) != boot(), nil
}

// Torn says that some of what was acknowledged may be lost: the machine has stopped before it
// was on the disk. It stays so, also after another start, until Settle.
func (f *Folder) Torn() bool { return f.torn.Load() }

// Settle says that all who have to know that the folder was torn will be told. From then on what
// is written may be lost again, unless each write is waited for, or others have it.
func (f *Folder) Settle() error {
	f.torn.Store(false)
	if f.cfg.Sync == 0 || f.cfg.Peers != nil {
		return f.unmark()
	}
	return writeWhole(filepath.Join(f.cfg.Dir, bootName), []byte(boot()))
}

// finish has everything on the disk, and takes the mark away that says it may not be.
func (f *Folder) finish() error {
	if f.torn.Load() {
		return nil // who has to know was not told
	}
	if err := Sync(f.cfg.Dir); err != nil {
		return err
	}
	return f.unmark()
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
