// Package oci holds the nouns: digest, descriptor, manifest, index, config,
// reference, platform. They are what the OCI specifications say they are, as
// plain values without behaviour that touches disk or network.
package oci

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"strings"
)

// Digest names bytes by their hash: "sha256:" and 64 lower-case hex digits.
// For a layer it is the hash of the blob as stored or transferred, so of the
// compressed bytes (image-spec descriptor.md, "Digests").
type Digest string

// DiffID is the digest of a layer's uncompressed tar (image-spec config.md,
// "Layer DiffID").
type DiffID = Digest

// algorithms are those image-spec registers (descriptor.md, "Registered
// Algorithms") that moss verifies.
var algorithms = map[string]struct {
	hexLen int
	new    func() hash.Hash
}{
	"sha256": {64, sha256.New},
	"sha512": {128, sha512.New},
}

// FromBytes returns the sha256 digest of b.
func FromBytes(b []byte) Digest {
	sum := sha256.Sum256(b)
	return Digest("sha256:" + hex.EncodeToString(sum[:]))
}

// FromHash returns the digest that h, a sha256, has come to.
func FromHash(h hash.Hash) Digest {
	return Digest("sha256:" + hex.EncodeToString(h.Sum(nil)))
}

// Algorithm returns what stands before the colon.
func (d Digest) Algorithm() string {
	alg, _, _ := strings.Cut(string(d), ":")
	return alg
}

// Hex returns what stands behind the colon.
func (d Digest) Hex() string {
	_, enc, _ := strings.Cut(string(d), ":")
	return enc
}

// Short returns the first 12 hex digits, docker's short form of an id.
func (d Digest) Short() string {
	enc := d.Hex()
	if len(enc) > 12 {
		enc = enc[:12]
	}
	return enc
}

// Validate checks form and algorithm. Only a valid digest may become part of
// a path: it contains no separator and no dot.
func (d Digest) Validate() error {
	alg, enc, ok := strings.Cut(string(d), ":")
	known, have := algorithms[alg]
	if !ok || !have {
		return fmt.Errorf("digest %q: not sha256:… or sha512:…", clip(string(d)))
	}
	if len(enc) != known.hexLen || strings.Trim(enc, "0123456789abcdef") != "" {
		return fmt.Errorf("digest %q: %s wants %d lower-case hex digits", clip(string(d)), alg, known.hexLen)
	}
	return nil
}

// NewHash returns a fresh hash of d's algorithm. d must be valid.
func (d Digest) NewHash() hash.Hash { return algorithms[d.Algorithm()].new() }

// Matches reports whether h, made by NewHash, has come to d.
func (d Digest) Matches(h hash.Hash) bool {
	return hex.EncodeToString(h.Sum(nil)) == d.Hex()
}

// ChainID identifies a stack of layers, lowest first: the first layer's diffID,
// then digest(chainID below + " " + diffID) for each above (image-spec
// config.md, "Layer ChainID"). An empty stack has the empty ChainID.
func ChainID(diffIDs []DiffID) Digest {
	var chain Digest
	for i, d := range diffIDs {
		if i == 0 {
			chain = d
			continue
		}
		chain = FromBytes([]byte(string(chain) + " " + string(d)))
	}
	return chain
}

// clip keeps hostile input out of error messages.
func clip(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}
