package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"moss/fail"
	"moss/oci"
)

// maxBlob bounds what is held in memory at once: manifests, indexes, configs.
const maxBlob = oci.MaxConfigBytes

// Blob returns the bytes d names: a manifest, an index or a config. They are
// hashed on every read, so a damaged disk gives ErrDigestMismatch, never a
// different image. ErrNotFound when there is no such blob.
func (s *Store) Blob(d oci.Digest) ([]byte, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	path := s.blobPath(d)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("blob %s: %w", d, ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxBlob+1))
	if err != nil {
		return nil, fmt.Errorf("reading blob %s: %w", d, err)
	}
	h := d.NewHash()
	h.Write(b)
	if !d.Matches(h) {
		return nil, &fail.Error{Op: "reading blob", On: string(d),
			Err: fmt.Errorf("%w: the %d bytes in %s are %s:%x", ErrDigestMismatch, len(b), path, d.Algorithm(), h.Sum(nil)),
			Why: "the file was changed or damaged after it was stored",
			Try: "moss pull the image again: it replaces the file"}
	}
	return b, nil
}

// PutBlob stores b under its sha256 digest. It may be called again with the same
// bytes; a damaged file is replaced then. The blob is protected from removal
// until it becomes part of an image (Tag) or this Store is closed.
func (s *Store) PutBlob(b []byte) (oci.Digest, error) {
	d := oci.FromBytes(b)
	return d, s.PutBlobAs(d, b)
}

// PutBlobAs is PutBlob for bytes that somebody named d, which may be a sha512
// digest. ErrDigestMismatch when they are others.
func (s *Store) PutBlobAs(d oci.Digest, b []byte) error {
	if err := d.Validate(); err != nil {
		return err
	}
	if len(b) > maxBlob {
		return fmt.Errorf("blob %s: %d bytes, more than the %d moss keeps as a blob", d.Short(), len(b), maxBlob)
	}
	h := d.NewHash()
	h.Write(b)
	if !d.Matches(h) {
		return fmt.Errorf("%w: %d bytes are %s:%x, expected %s", ErrDigestMismatch, len(b), d.Algorithm(), h.Sum(nil), d)
	}
	if err := s.prepare(); err != nil {
		return explainOpen(s.root, err)
	}
	if err := s.announce(context.Background(), d); err != nil {
		return err
	}
	if _, err := s.Blob(d); err == nil {
		return nil
	}
	// No fsync: a blob that a power cut leaves short does not match its name and
	// counts as absent; Sync makes it durable together with the layers.
	if err := writeFile(s.path("tmp"), s.blobPath(d), b, 0o600, false); err != nil {
		return explainDisk("storing blob", string(d), err)
	}
	return nil
}

func (s *Store) blobPath(d oci.Digest) string {
	return s.path("blobs", d.Algorithm(), d.Hex())
}
