package cli

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"moss/fail"
)

// parseEnv reads -e: VAR=value, or VAR alone for the caller's own value. When
// the caller has none it stays a bare name, which unsets what the image set
// (docker run reference, "Set environment variables").
func parseEnv(s string) (string, error) {
	name, _, hasValue := strings.Cut(s, "=")
	if name == "" {
		return "", errors.New("invalid environment variable: " + s)
	}
	if hasValue {
		return s, nil
	}
	if value, ok := os.LookupEnv(name); ok {
		return name + "=" + value, nil
	}
	return s, nil
}

// parseLabel reads -l: key=value, or key alone for the empty value.
func parseLabel(s string) (string, error) {
	key, _, _ := strings.Cut(s, "=")
	switch {
	case key == "":
		return "", fmt.Errorf("invalid label '%s': empty name", s)
	case strings.IndexFunc(key, unicode.IsSpace) >= 0:
		return "", fmt.Errorf("label '%s' contains whitespaces", key)
	}
	return s, nil
}

// readKeyValues reads the lines of an --env-file or --label-file. Empty lines
// and lines that begin with # are comments; the value is everything behind the
// first "=", quotes and blanks included; missing is asked for the value of a
// bare name, and decides whether it counts at all.
func readKeyValues(path string, missing func(name string) (string, bool)) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []string
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	n := 0
	for lines.Scan() {
		n++
		kv, err := keyValue(lines.Text(), n == 1, missing)
		if err != nil {
			return nil, &fail.Error{Op: "reading", On: fmt.Sprintf("%s:%d", path, n), Err: err}
		}
		if kv != "" {
			all = append(all, kv)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, &fail.Error{Op: "reading", On: fmt.Sprintf("%s:%d", path, n+1), Err: longLine(err)}
	}
	return all, nil
}

func longLine(err error) error {
	if errors.Is(err, bufio.ErrTooLong) {
		return errors.New("line is longer than 1 MiB")
	}
	return err
}

// keyValue reads one line; "" when there is nothing on it.
func keyValue(line string, first bool, missing func(string) (string, bool)) (string, error) {
	if !utf8.ValidString(line) {
		return "", errors.New("invalid utf8 bytes")
	}
	if first {
		line = strings.TrimPrefix(line, "\ufeff") // a byte order mark
	}
	line = strings.TrimLeftFunc(line, unicode.IsSpace)
	if line == "" || line[0] == '#' {
		return "", nil
	}
	name, _, hasValue := strings.Cut(line, "=")
	if name == "" {
		return "", fmt.Errorf("no variable name on line '%s'", line)
	}
	if strings.IndexFunc(name, unicode.IsSpace) >= 0 {
		return "", fmt.Errorf("variable '%s' contains whitespaces", name)
	}
	if hasValue {
		return line, nil
	}
	if value, ok := missing(name); ok {
		return name + "=" + value, nil
	}
	return "", nil
}

// readEnvFile reads --env-file: a bare name takes the caller's value, and is
// left out when there is none.
func readEnvFile(path string) ([]string, error) { return readKeyValues(path, os.LookupEnv) }

// readLabelFile reads --label-file: a bare name is a label without value.
func readLabelFile(path string) ([]string, error) {
	return readKeyValues(path, func(string) (string, bool) { return "", true })
}

// toMap makes labels of key=value strings; the last of a key counts.
func toMap(kvs []string) map[string]string {
	if len(kvs) == 0 {
		return nil
	}
	m := make(map[string]string, len(kvs))
	for _, kv := range kvs {
		k, v, _ := strings.Cut(kv, "=")
		m[k] = v
	}
	return m
}
