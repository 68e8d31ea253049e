// Package atomicfile replaces files as a whole.
package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Write replaces the file at path, readable by its owner alone, with data. A
// reader finds the old content or the new, also when the writer is killed. A
// symbolic link is replaced, not followed.
//
// A killed writer leaves one file named path.*.tmp, which the next Write
// removes. Of several processes that write at once one wins; the others may
// get an error.
func Write(path string, data []byte) error {
	dir, prefix := filepath.Dir(path), filepath.Base(path)+"."
	if err := removeLeftovers(dir, prefix); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, prefix+"*"+suffix)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, ignoreMissing(os.Remove(f.Name())))
	}
	return nil
}

const suffix = ".tmp"

// removeLeftovers may remove the file of another process that writes right
// now, whose rename then fails: better than files that nobody ever removes.
func removeLeftovers(dir, prefix string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if name := entry.Name(); entry.Type().IsRegular() && isLeftover(name, prefix) {
			if err := ignoreMissing(os.Remove(filepath.Join(dir, name))); err != nil {
				return err
			}
		}
	}
	return nil
}

// isLeftover reports whether CreateTemp made that name, with a number for *.
func isLeftover(name, prefix string) bool {
	rest, ok := strings.CutPrefix(name, prefix)
	number, ended := strings.CutSuffix(rest, suffix)
	return ok && ended && number != "" && strings.Trim(number, "0123456789") == ""
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
