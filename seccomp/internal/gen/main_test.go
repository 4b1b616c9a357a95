package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// The files in the repository are what gen would write.
func TestUpToDate(t *testing.T) {
	dir := filepath.Join("..", "..")
	files, err := generate(dir)
	if err != nil {
		t.Skip("the sources of golang.org/x/sys are not here: ", err)
	}
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
		} else if !bytes.Equal(got, want) {
			t.Errorf("%s is stale: go generate ./seccomp", name)
		}
	}
}
