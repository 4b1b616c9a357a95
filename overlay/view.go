package overlay

import (
	"errors"
	"io/fs"
	"os"
)

// View is a merged look at unpacked trees, lowest first, without mounting.
type View []string

// Open opens a regular file or directory for reading.
func (v View) Open(inRoot string) (*os.File, error) { return nil, errors.ErrUnsupported }

// ReadFile reads a regular file of at most max bytes.
func (v View) ReadFile(inRoot string, max int64) ([]byte, error) { return nil, errors.ErrUnsupported }

// Stat describes what inRoot leads to.
func (v View) Stat(inRoot string) (fs.FileInfo, error) { return nil, errors.ErrUnsupported }

// Lstat describes inRoot itself, when it is a symlink.
func (v View) Lstat(inRoot string) (fs.FileInfo, error) { return nil, errors.ErrUnsupported }

// ReadDir lists a merged directory, sorted by name.
func (v View) ReadDir(inRoot string) ([]fs.FileInfo, error) { return nil, errors.ErrUnsupported }
