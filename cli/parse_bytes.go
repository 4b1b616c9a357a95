package cli

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// parseBytes reads a size as docker's --shm-size and tmpfs-size take it: a
// number, maybe with a fraction, then b, k, m, g, t or p in either case,
// optionally followed by "b" or "ib". Units are powers of 1024.
func parseBytes(s string) (int64, error) {
	bad := fmt.Errorf("invalid size: '%s'", s)
	digits := strings.TrimRight(s, "kKmMgGtTpPiIbB ")
	unit := strings.ToLower(strings.TrimPrefix(s[len(digits):], " "))
	n, err := strconv.ParseFloat(digits, 64)
	if err != nil || n < 0 || strings.ContainsAny(digits, "eExXpPiInN_+") {
		return 0, bad
	}
	shift := 0
	if unit != "" && unit != "b" {
		exponent := strings.IndexByte("kmgtp", unit[0])
		if rest := unit[1:]; exponent < 0 || rest != "" && rest != "b" && rest != "ib" {
			return 0, bad
		}
		shift = 10 * (exponent + 1)
	}
	n *= float64(int64(1) << shift)
	if n >= math.MaxInt64 {
		return 0, fmt.Errorf("size '%s' is more than 8 EiB", s)
	}
	return int64(n), nil
}
