package pull

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"moss/fail"
	"moss/oci"
)

// This file answers "where do I ask for this name?" from the files that
// podman, buildah and skopeo read, so that an existing set-up just works:
// containers-registries.conf(5), version 2, and containers-registries.conf.d(5).
//
// Where moss differs, on purpose:
//   - with no unqualified-search-registries, a bare name means docker.io, as
//     docker has it;
//   - moss never asks which registry was meant: short-name-mode "permissive"
//     tries them in order, "enforcing" refuses when there are several;
//   - prefix "example.com" does not match example.com:5000, another server.

// registriesConf is what the files say, merged.
type registriesConf struct {
	search     []string
	searchFrom string // the file that set search
	mode       string
	aliases    map[string]string
	registries []registryTable
	helpers    []string // credential-helpers
}

// registryTable is a [[registry]].
type registryTable struct {
	Prefix             string        `toml:"prefix"`
	Location           string        `toml:"location"`
	Insecure           *bool         `toml:"insecure"`
	Blocked            bool          `toml:"blocked"`
	MirrorByDigestOnly bool          `toml:"mirror-by-digest-only"`
	Mirrors            []mirrorTable `toml:"mirror"`

	file string
}

// mirrorTable is a [[registry.mirror]].
type mirrorTable struct {
	Location       string `toml:"location"`
	Insecure       *bool  `toml:"insecure"`
	PullFromMirror string `toml:"pull-from-mirror"`
}

type registriesFile struct {
	Search     []string          `toml:"unqualified-search-registries"`
	Mode       string            `toml:"short-name-mode"`
	Helpers    []string          `toml:"credential-helpers"`
	Aliases    map[string]string `toml:"aliases"`
	Registries []registryTable   `toml:"registry"`
	Version1   any               `toml:"registries"`
}

// source is one place to ask for an image: the name it has there, and how far
// the connection is to be trusted.
type source struct {
	ref      oci.Reference
	insecure *bool // as configured; nil when nothing is said
	mirror   bool
}

// registriesConf reads all files there are, in the order of
// containers-registries.conf.d(5): a later one overrides.
func (s *surroundings) registriesConf() (*registriesConf, error) {
	main, dropins := filepath.Join(s.etc, "containers/registries.conf"), []string{filepath.Join(s.etc, "containers/registries.conf.d")}
	user := filepath.Join(s.configHome, "containers/registries.conf")
	if override := s.getenv("CONTAINERS_REGISTRIES_CONF"); override != "" {
		main = override
		if _, err := os.Stat(main); err != nil {
			return nil, &fail.Error{Op: "read registries.conf", Err: err,
				Why: "the variable CONTAINERS_REGISTRIES_CONF names this file", Try: "unset CONTAINERS_REGISTRIES_CONF"}
		}
	} else if _, err := os.Stat(user); err == nil && s.configHome != "" {
		main, dropins = user, nil
	}
	if s.configHome != "" {
		dropins = append(dropins, user+".d")
	}

	c := &registriesConf{aliases: map[string]string{}}
	if err := c.read(main); err != nil {
		return nil, err
	}
	for _, dir := range dropins {
		names, err := os.ReadDir(dir) // sorted by name
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, &fail.Error{Op: "read registries.conf.d", Err: err}
		}
		for _, n := range names {
			if !n.IsDir() && strings.HasSuffix(n.Name(), ".conf") {
				if err := c.read(filepath.Join(dir, n.Name())); err != nil {
					return nil, err
				}
			}
		}
	}
	// What podman recorded when it asked "which registry did you mean?".
	if s.cacheHome != "" {
		if err := c.read(filepath.Join(s.cacheHome, "containers/short-name-aliases.conf")); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// read merges one file into c; a file that is not there says nothing.
func (c *registriesConf) read(path string) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return &fail.Error{Op: "read registries.conf", Err: err}
	}
	return c.merge(path, string(data))
}

// tomlError puts the line in front.
func tomlError(err error) error {
	text := strings.TrimPrefix(err.Error(), "toml: ")
	if at := (*toml.DecodeError)(nil); errors.As(err, &at) {
		line, column := at.Position()
		return fmt.Errorf("line %d, column %d: %s", line, column, text)
	}
	return errors.New(text)
}

// merge parses text, the content of path, over what c says already.
func (c *registriesConf) merge(path, text string) error {
	var f registriesFile
	if err := toml.Unmarshal([]byte(text), &f); err != nil {
		return &fail.Error{Op: "read", On: path, Err: tomlError(err), Try: "containers-registries.conf(5) has the format"}
	}
	bad := func(value, format string, args ...any) error {
		return &fail.Error{Op: "read", On: path, Err: fmt.Errorf("line %d: "+format, append([]any{lineOf(text, value)}, args...)...),
			Try: "containers-registries.conf(5) has the format"}
	}
	if f.Version1 != nil {
		return &fail.Error{Op: "read", On: path, Err: fmt.Errorf("line %d: [registries.…] is version 1 of this format, which moss does not read", lineOf(text, "registries.")),
			Try: "[registries.search] registries = […] is now unqualified-search-registries = […];\n" +
				"[registries.insecure] is now [[registry]] location = \"HOST\", insecure = true; the same with blocked = true"}
	}
	if f.Search != nil {
		for _, host := range f.Search {
			ref, err := oci.ParseReference(host + "/name")
			if err != nil || ref.Registry != host && host != "index.docker.io" {
				return bad(host, "unqualified-search-registries: %q is not a host, host:port or localhost", clip(host, 100))
			}
		}
		c.search, c.searchFrom = f.Search, path
	}
	switch f.Mode {
	case "":
	case "enforcing", "permissive", "disabled":
		c.mode = f.Mode
	default:
		return bad(f.Mode, "short-name-mode %q: want enforcing, permissive or disabled", clip(f.Mode, 100))
	}
	if f.Helpers != nil {
		c.helpers = f.Helpers
	}
	for name, full := range f.Aliases {
		if full == "" {
			delete(c.aliases, name)
			continue
		}
		if ref, err := oci.ParseReference(full); err != nil || oci.IsShortName(full) || strings.Contains(full, "@") || ref.Tag != oci.DefaultTag {
			return bad(name, "alias %q = %q: want a full name such as docker.io/library/debian, without tag", clip(name, 100), clip(full, 100))
		}
		c.aliases[name] = full
	}
	for _, r := range f.Registries {
		r.file = path
		if r.Prefix == "" {
			r.Prefix = r.Location
		}
		r.Prefix = strings.TrimSuffix(r.Prefix, "/")
		r.Location = strings.TrimSuffix(r.Location, "/")
		wildcard := strings.HasPrefix(r.Prefix, "*.")
		switch {
		case r.Prefix == "":
			return bad("[[registry]]", "[[registry]] has neither prefix nor location")
		case strings.Contains(r.Prefix, "://") || strings.Contains(r.Location, "://"):
			return bad("://", "[[registry]] %q: leave out https://; for plain http say insecure = true", clip(r.Prefix, 100))
		case strings.Contains(strings.TrimPrefix(r.Prefix, "*."), "*") || wildcard && strings.ContainsAny(r.Prefix, ":/@"):
			return bad(r.Prefix, "prefix %q: a wildcard stands only at the start of a bare host: *.example.com", clip(r.Prefix, 100))
		}
		if r.Location == "" && !wildcard {
			r.Location = r.Prefix
		}
		for _, m := range r.Mirrors {
			switch m.PullFromMirror {
			case "", "all", "digest-only", "tag-only":
			default:
				return bad(m.PullFromMirror, "pull-from-mirror %q: want all, digest-only or tag-only", clip(m.PullFromMirror, 100))
			}
			if m.PullFromMirror != "" && r.MirrorByDigestOnly {
				return bad("pull-from-mirror", "pull-from-mirror and mirror-by-digest-only exclude each other")
			}
			if m.Location == "" || strings.Contains(m.Location, "://") {
				return bad("[[registry.mirror]]", "[[registry.mirror]] of %q: location %q is not host[:port][/path]", clip(r.Prefix, 100), clip(m.Location, 100))
			}
		}
		c.put(r)
	}
	return nil
}

// put adds r, in the place of an earlier one with the same prefix.
func (c *registriesConf) put(r registryTable) {
	for i := range c.registries {
		if c.registries[i].Prefix == r.Prefix {
			c.registries[i] = r
			return
		}
	}
	c.registries = append(c.registries, r)
}

// lineOf finds value in text, for errors about what TOML itself allows.
func lineOf(text, value string) int {
	for _, written := range []string{`"` + value + `"`, "'" + value + "'", value} {
		if before, _, ok := strings.Cut(text, written); ok {
			return 1 + strings.Count(before, "\n")
		}
	}
	return 1
}

// names returns what the typed name may mean, in the order to try.
func (c *registriesConf) names(typed string) ([]oci.Reference, error) {
	ref, err := oci.ParseReference(typed)
	if err != nil {
		return nil, &fail.Error{Op: "pull", Err: err, Try: "a name such as debian, debian:12, ghcr.io/owner/name:tag or name@sha256:…"}
	}
	if !oci.IsShortName(typed) {
		return []oci.Reference{ref}, nil
	}
	short, suffix := splitSuffix(typed)
	if full, ok := c.aliases[short]; ok {
		ref, err := oci.ParseReference(full + suffix)
		return []oci.Reference{ref}, err
	}
	if len(c.search) == 0 {
		return []oci.Reference{ref}, nil
	}
	if c.mode == "enforcing" && len(c.search) > 1 {
		return nil, &fail.Error{Op: "pull", On: typed, Err: errors.New("the short name may mean several images"),
			Why: fmt.Sprintf("%s searches %s, and short-name-mode is enforcing", c.searchFrom, strings.Join(c.search, ", ")),
			Try: fmt.Sprintf("the full name, for example %s/%s", c.search[0], typed)}
	}
	var refs []oci.Reference
	for _, host := range c.search {
		ref, err := oci.ParseReference(host + "/" + typed)
		if err != nil {
			return nil, &fail.Error{Op: "pull", Err: err}
		}
		refs = append(refs, ref)
	}
	return refs, nil
}

// splitSuffix cuts ":tag" and "@digest" off a name without registry.
func splitSuffix(typed string) (name, suffix string) {
	end := len(typed)
	if i := strings.IndexByte(typed, '@'); i >= 0 {
		end = i
	}
	if i := strings.LastIndexByte(typed[:end], ':'); i > strings.LastIndexByte(typed[:end], '/') {
		end = i
	}
	return typed[:end], typed[end:]
}

// sources returns where ref is to be had, mirrors first, in order.
func (c *registriesConf) sources(ref oci.Reference) ([]source, error) {
	full := ref.String()
	var best *registryTable
	matched := 0 // bytes of full that best's prefix covers
	for i := range c.registries {
		r := &c.registries[i]
		if n := matchPrefix(ref, full, r.Prefix); n > 0 && (best == nil || len(r.Prefix) > len(best.Prefix)) {
			best, matched = r, n
		}
	}
	if best == nil {
		return []source{{ref: ref}}, nil
	}
	if best.Blocked {
		return nil, &fail.Error{Op: "pull", On: full, Err: errors.New("the registry is blocked"),
			Why: fmt.Sprintf("%s says blocked = true for %s", best.file, best.Prefix)}
	}
	var list []source
	add := func(location string, insecure *bool, mirror bool) error {
		at := ref
		if location != "" {
			moved, err := oci.ParseReference(location + full[matched:])
			if err != nil || oci.IsShortName(location+"/") {
				return &fail.Error{Op: "read", On: best.file, Err: fmt.Errorf("location %q leads to %q, which is no image name", clip(location, 100), clip(location+full[matched:], 200))}
			}
			at = moved
		}
		list = append(list, source{ref: at, insecure: insecure, mirror: mirror})
		return nil
	}
	byDigest := ref.Digest != ""
	for _, m := range best.Mirrors {
		if best.MirrorByDigestOnly && !byDigest || m.PullFromMirror == "digest-only" && !byDigest || m.PullFromMirror == "tag-only" && byDigest {
			continue
		}
		if err := add(m.Location, m.Insecure, true); err != nil {
			return nil, err
		}
	}
	if err := add(best.Location, best.Insecure, false); err != nil {
		return nil, err
	}
	return list, nil
}

// matchPrefix returns how many bytes of full, which is ref written out, the
// prefix stands for, 0 when it does not match.
func matchPrefix(ref oci.Reference, full, prefix string) int {
	if domain, ok := strings.CutPrefix(prefix, "*"); ok { // ".example.com"
		host := ref.Registry
		if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
			host = host[:i]
		}
		if len(host) > len(domain) && strings.HasSuffix(host, domain) {
			return len(ref.Registry)
		}
		return 0
	}
	if !strings.HasPrefix(full, prefix) {
		return 0
	}
	if len(full) == len(prefix) {
		return len(prefix)
	}
	switch c := full[len(prefix)]; {
	case c == '/', c == '@':
		return len(prefix)
	case c == ':' && strings.Contains(prefix, "/"): // a tag, not a port
		return len(prefix)
	}
	return 0
}
