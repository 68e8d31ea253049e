// Package atomicfile replaces files atomically.
package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Write replaces the file at path with one that contains data and that only its owner
// can read. A reader sees either the old or the new content, even if the writer is
// killed. A symbolic link is replaced, not followed.
//
// A killed writer leaves a file named path.*.tmp, which the next Write removes. If
// several processes write at once, one succeeds; the others may get an error.
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

// removeLeftovers removes the files of killed writers. It may also remove the file of a
// process that is writing now, whose rename then fails. Otherwise leftovers would stay
// for ever.
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

// isLeftover reports whether name is one that CreateTemp makes: with a number for *.
func isLeftover(name, prefix string) bool {
	rest, hasPrefix := strings.CutPrefix(name, prefix)
	number, hasSuffix := strings.CutSuffix(rest, suffix)
	isNumber := number != "" && strings.Trim(number, "0123456789") == ""
	return hasPrefix && hasSuffix && isNumber
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
