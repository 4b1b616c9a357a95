package cli

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// filters are the values of --filter by key. Values of one key are
// alternatives, different keys must all hold; for labels all values must.
type filters map[string][]string

// filterValue is --filter key=value.
type filterValue struct {
	to   *filters
	keys string // those the verb knows, separated by blanks
}

func (f filterValue) Type() string   { return "filter" }
func (f filterValue) String() string { return "" }

func (f filterValue) Set(s string) error {
	key, value, ok := strings.Cut(s, "=")
	if !ok {
		return errors.New("invalid filter (want name=value)")
	}
	key = strings.ToLower(strings.TrimSpace(key))
	known := strings.Fields(f.keys)
	if !contains(known, key) {
		return fmt.Errorf("invalid filter '%s' (there are %s)%s", key, strings.Join(known, ", "), didYouMean("", key, known))
	}
	if *f.to == nil {
		*f.to = filters{}
	}
	(*f.to)[key] = append((*f.to)[key], strings.TrimSpace(value))
	return nil
}

// labels reports whether every label asked for is there: key, or key=value.
func (f filters) labels(have map[string]string) bool {
	for _, want := range f["label"] {
		key, value, hasValue := strings.Cut(want, "=")
		got, ok := have[key]
		if !ok || hasValue && got != value {
			return false
		}
	}
	return true
}

// any reports whether one of the values of key is s, or, as docker has it,
// a regular expression that matches in s. No values: true.
func (f filters) any(key string, candidates ...string) (bool, error) {
	values, given := f[key]
	if !given {
		return true, nil
	}
	for _, v := range values {
		for _, s := range candidates {
			if v == s {
				return true, nil
			}
		}
		re, err := regexp.Compile(v)
		if err != nil {
			return false, fmt.Errorf("--filter %s=%s: %w", key, v, err)
		}
		for _, s := range candidates {
			if re.MatchString(s) {
				return true, nil
			}
		}
	}
	return false, nil
}
