package cli

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"strings"

	"moss/container"
	"moss/fail"
)

// parseVolume reads -v as docker does:
//
//	/in/container                 an anonymous volume
//	name:/in/container[:modes]    a named volume
//	/on/host:/in/container[:modes]
//	./here:/in/container[:modes]  relative to the working directory
//
// Modes are joined by commas: ro or rw; z or Z (SELinux, without effect here);
// nocopy; [r]private, [r]slave, [r]shared; and Docker Desktop's consistency
// words, which mean nothing on Linux.
func parseVolume(s string) (container.Mount, error) {
	var m container.Mount
	parts := strings.Split(s, ":")
	invalid := fmt.Errorf("invalid volume specification: '%s'", s)
	modes := ""
	switch len(parts) {
	case 1:
		m.Target = parts[0]
	case 2:
		m.Source, m.Target = parts[0], parts[1]
		if !strings.HasPrefix(m.Target, "/") && validModes(m.Target) {
			return m, fmt.Errorf("%w: what is before the colon has no place inside the container", invalid)
		}
	case 3:
		m.Source, m.Target, modes = parts[0], parts[1], parts[2]
	default:
		return m, invalid
	}
	if m.Target == "" || len(parts) > 1 && m.Source == "" {
		return m, invalid
	}
	if err := setTarget(&m); err != nil {
		return m, fmt.Errorf("%w: %w", invalid, err)
	}
	if err := setSource(&m); err != nil {
		return m, err
	}
	if modes != "" {
		if err := setModes(&m, modes); err != nil {
			return m, fmt.Errorf("%w: %w", invalid, err)
		}
	}
	return m, nil
}

// setTarget checks and cleans the path inside the container.
func setTarget(m *container.Mount) error {
	if strings.ContainsRune(m.Target, 0) {
		return errors.New("a path cannot contain a zero byte")
	}
	if !path.IsAbs(m.Target) {
		return fmt.Errorf("invalid mount path: '%s' mount path must be absolute", m.Target)
	}
	m.Target = path.Clean(m.Target)
	if m.Target == "/" {
		return errors.New("destination can't be '/'")
	}
	return nil
}

// setSource decides what Source is: a host path, made absolute and, when
// missing, made a directory; or a volume's name; or nothing.
func setSource(m *container.Mount) error {
	switch {
	case m.Source == "":
		m.Type = "volume"
		return nil
	case isHostPath(m.Source):
		abs, err := filepath.Abs(m.Source)
		if err != nil {
			return err
		}
		m.Type, m.Source, m.CreateSource = "bind", abs, true
		return nil
	}
	m.Type = "volume"
	return checkVolumeName(m.Source)
}

// isHostPath: anything that begins with a slash or a dot component. A bare
// word is a volume's name, as in docker.
func isHostPath(s string) bool {
	return s == "." || s == ".." || strings.HasPrefix(s, "/") || strings.HasPrefix(s, "./") || strings.HasPrefix(s, "../")
}

func checkVolumeName(s string) error {
	ok := len(s) > 1
	for i, c := range []byte(s) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		ok = ok && (letter || i > 0 && (c == '_' || c == '.' || c == '-'))
	}
	if !ok {
		return fmt.Errorf("%q includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path", s)
	}
	return nil
}

const (
	accessModes      = "ro rw"
	labelModes       = "z Z"
	propagationModes = "private rprivate slave rslave shared rshared"
	consistencyModes = "consistent cached delegated default"
	allModes         = accessModes + " " + labelModes + " " + propagationModes + " " + consistencyModes + " nocopy"
)

func validModes(s string) bool {
	var scratch container.Mount
	scratch.Type = "volume"
	return setModes(&scratch, s) == nil
}

// setModes reads what follows the second colon of -v. Each kind of mode may
// be given once.
func setModes(m *container.Mount, modes string) error {
	var seen [5]bool
	for mode := range strings.SplitSeq(modes, ",") {
		kind := -1
		for i, words := range []string{accessModes, labelModes, propagationModes, consistencyModes, "nocopy"} {
			if contains(strings.Fields(words), mode) {
				kind = i
			}
		}
		if kind < 0 {
			return fmt.Errorf("invalid mode: %s%s", modes, didYouMean("", mode, strings.Fields(allModes)))
		}
		if seen[kind] {
			return fmt.Errorf("invalid mode: %s (two modes of one kind)", modes)
		}
		seen[kind] = true
		switch kind {
		case 0:
			m.ReadOnly = mode == "ro"
		case 2:
			if m.Type != "bind" {
				return fmt.Errorf("invalid mode: %s (propagation is for directories of the host)", modes)
			}
			m.Propagation = mode
		case 4:
			if m.Type != "volume" {
				return fmt.Errorf("invalid mode: %s (nocopy is for volumes)", modes)
			}
			m.VolumeNoCopy = true
		}
	}
	return nil
}

// parseTmpfs reads --tmpfs: /in/container[:options], with the options that
// mount(8) lists for tmpfs.
func parseTmpfs(s string) (container.Mount, error) {
	m := container.Mount{Type: "tmpfs"}
	var options string
	m.Target, options, _ = strings.Cut(s, ":")
	if err := setTarget(&m); err != nil {
		return m, err
	}
	for o := range strings.SplitSeq(options, ",") {
		if o != "" {
			m.TmpfsOptions = append(m.TmpfsOptions, o)
		}
	}
	return m, nil
}

// checkDuplicates refuses two mounts on one place.
func checkDuplicates(mounts []container.Mount) error {
	for i, m := range mounts {
		for _, before := range mounts[:i] {
			if before.Target == m.Target {
				return &fail.Error{Op: "Duplicate mount point:", On: m.Target}
			}
		}
	}
	return nil
}
