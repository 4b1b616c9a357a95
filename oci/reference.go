package oci

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Where a bare name is looked for, as docker does it.
const (
	DefaultRegistry = "docker.io"
	DefaultTag      = "latest"
	officialPrefix  = "library/"
)

// Reference names an image: Registry/Repository:Tag@Digest. A parsed one is
// complete: registry and repository are set, and a tag or a digest.
type Reference struct {
	Registry   string // "docker.io", "localhost:5000"
	Repository string // "library/debian"
	Tag        string // "latest"; "" when only a digest was given
	Digest     Digest // "" when only a tag was given
}

// ParseReference reads what a person types: "debian", "debian:12",
// "ghcr.io/org/app@sha256:…". What is left out is filled in as docker does:
// registry docker.io, there "library/" before a single name, tag "latest".
//
// The grammar is distribution-spec's ("Pulling manifests"); what stands before
// the first slash is a registry when it has a dot or a colon or is "localhost".
func ParseReference(s string) (Reference, error) {
	r, err := parseReference(s)
	if err != nil {
		return Reference{}, fmt.Errorf("image reference %q: %w", clip(s), err)
	}
	return r, nil
}

func parseReference(s string) (Reference, error) {
	var r Reference
	if s == "" {
		return r, errors.New("empty; want a name such as debian:12")
	}
	rest, digest, hasDigest := strings.Cut(s, "@")
	if hasDigest {
		r.Digest = Digest(digest)
		if err := r.Digest.Validate(); err != nil {
			return r, err
		}
	}
	// A colon behind the last slash starts a tag; before it, a port.
	if i := strings.LastIndexByte(rest, ':'); i > strings.LastIndexByte(rest, '/') {
		rest, r.Tag = rest[:i], rest[i+1:]
		if !validTag(r.Tag) {
			return r, fmt.Errorf("tag %q: want up to 128 letters, digits, '_', '.', '-', not starting with '.' or '-'", clip(r.Tag))
		}
	}
	r.Registry, r.Repository = DefaultRegistry, rest
	if first, others, ok := strings.Cut(rest, "/"); ok && looksLikeRegistry(first) {
		r.Registry, r.Repository = first, others
	}
	if r.Registry == "index.docker.io" {
		r.Registry = DefaultRegistry
	}
	if !validRegistry(r.Registry) {
		return r, fmt.Errorf("registry %q: want host or host:port", clip(r.Registry))
	}
	if r.Repository == "" {
		return r, errors.New("no repository name")
	}
	if lower := strings.ToLower(r.Repository); lower != r.Repository {
		return r, fmt.Errorf("repository names are lower case; did you mean %q?", clip(strings.Replace(s, r.Repository, lower, 1)))
	}
	if r.Registry == DefaultRegistry && !strings.Contains(r.Repository, "/") {
		r.Repository = officialPrefix + r.Repository
	}
	if err := checkRepository(r.Repository); err != nil {
		return r, err
	}
	if r.Tag == "" && r.Digest == "" {
		r.Tag = DefaultTag
	}
	return r, nil
}

// IsShortName reports whether s, a valid reference as typed, leaves out the
// registry, so that registries.conf may say where to look (containers-
// registries.conf(5), "Short-Name Aliasing").
func IsShortName(s string) bool {
	first, _, ok := strings.Cut(s, "/")
	return !ok || !looksLikeRegistry(first)
}

// String is the full reference: docker.io/library/debian:12.
func (r Reference) String() string { return r.Name() + r.suffix() }

// Name is the reference without tag and digest.
func (r Reference) Name() string { return r.Registry + "/" + r.Repository }

// Familiar is what docker shows: without docker.io and library/.
func (r Reference) Familiar() string { return r.FamiliarName() + r.suffix() }

// FamiliarName is Familiar without tag and digest. Where the short form would
// mean something else, as for docker.io/localhost/app, it is the full one.
func (r Reference) FamiliarName() string {
	if r.Registry != DefaultRegistry {
		return r.Name()
	}
	if name, ok := strings.CutPrefix(r.Repository, officialPrefix); ok && !strings.Contains(name, "/") {
		return name
	}
	if first, _, _ := strings.Cut(r.Repository, "/"); looksLikeRegistry(first) || first+"/" == officialPrefix {
		return r.Name()
	}
	return r.Repository
}

func (r Reference) suffix() string {
	s := ""
	if r.Tag != "" {
		s = ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + string(r.Digest)
	}
	return s
}

func looksLikeRegistry(s string) bool {
	return s == "localhost" || strings.ContainsAny(s, ".:") || strings.ToLower(s) != s
}

// maxRegistry bounds host and port: the store uses them as one file name.
const maxRegistry = 255

// validRegistry accepts host, host:port, [v6] and [v6]:port.
func validRegistry(s string) bool {
	if len(s) > maxRegistry {
		return false
	}
	host := s
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		var port string
		host, port = s[:i], s[i+1:]
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return false
		}
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		ip, err := netip.ParseAddr(inner)
		// No zone: it means nothing on another machine, and may hold anything.
		return ok && err == nil && ip.Is6() && ip.Zone() == ""
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if !isLower(c) && !isDigit(c) && c != '-' && !(c >= 'A' && c <= 'Z') {
				return false
			}
		}
	}
	return true
}

func checkRepository(s string) error {
	if len(s) > 255 {
		return errors.New("repository name is longer than 255 characters")
	}
	for part := range strings.SplitSeq(s, "/") {
		if !validComponent(part) {
			return fmt.Errorf("%q: want lower-case letters and digits, joined by '.', '_', '__' or dashes", clip(part))
		}
	}
	return nil
}

// validComponent is distribution-spec's
// [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*
func validComponent(s string) bool {
	alnum := func(c byte) bool { return isLower(c) || isDigit(c) }
	if s == "" || !alnum(s[0]) || !alnum(s[len(s)-1]) {
		return false
	}
	for i := 0; i < len(s); {
		if alnum(s[i]) {
			i++
			continue
		}
		start := i
		for !alnum(s[i]) { // ends: the last byte is alphanumeric
			i++
		}
		switch sep := s[start:i]; {
		case sep == ".", sep == "_", sep == "__", strings.Trim(sep, "-") == "":
		default:
			return false
		}
	}
	return true
}

func validTag(s string) bool {
	if s == "" || len(s) > 128 || s[0] == '.' || s[0] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		if !isLower(c) && !isDigit(c) && !(c >= 'A' && c <= 'Z') && c != '_' && c != '.' && c != '-' {
			return false
		}
	}
	return true
}

func isLower(c byte) bool { return c >= 'a' && c <= 'z' }
func isDigit(c byte) bool { return c >= '0' && c <= '9' }
