package cli

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"moss/container"
)

// ulimitNames are docker's names for the resources of getrlimit(2).
const ulimitNames = "core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack"

// parseUlimit reads name=soft[:hard]; -1 is unlimited, and a hard limit that is
// left out is the soft one.
func parseUlimit(s string) (container.Ulimit, error) {
	var u container.Ulimit
	name, values, ok := strings.Cut(s, "=")
	if !ok {
		return u, fmt.Errorf("invalid ulimit argument: %s (want name=soft[:hard])", s)
	}
	names := strings.Fields(ulimitNames)
	if !contains(names, name) {
		return u, fmt.Errorf("invalid ulimit type: %s%s", name, didYouMean("", name, names))
	}
	u.Name = name
	softText, hardText, both := strings.Cut(values, ":")
	var err error
	if u.Soft, err = parseLimit(softText); err != nil {
		return u, err
	}
	u.Hard = u.Soft
	if both {
		if u.Hard, err = parseLimit(hardText); err != nil {
			return u, err
		}
	}
	if u.Hard != -1 && (u.Soft == -1 || u.Soft > u.Hard) {
		return u, fmt.Errorf("ulimit soft limit must be less than or equal to hard limit: %s > %s", softText, hardText)
	}
	return u, nil
}

func parseLimit(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < -1 {
		return 0, errors.New("want a number, or -1 for unlimited, not '" + s + "'")
	}
	return n, nil
}

func contains(words []string, word string) bool {
	for _, w := range words {
		if w == word {
			return true
		}
	}
	return false
}
