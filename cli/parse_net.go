package cli

import (
	"fmt"
	"net/netip"
	"strings"

	"moss/fail"
)

// parseAddHost reads --add-host: name:ip or name=ip, where ip may stand in
// brackets or be the word host-gateway. It returns name:ip.
func parseAddHost(s string) (string, error) {
	name, ip, ok := strings.Cut(s, "=")
	if !ok {
		name, ip, ok = strings.Cut(s, ":")
	}
	if !ok || name == "" {
		return "", fmt.Errorf("bad format for add-host: %q (want name:ip)", s)
	}
	if ip == "host-gateway" {
		return name + ":" + ip, nil
	}
	if inner, ok := strings.CutPrefix(ip, "["); ok {
		ip = strings.TrimSuffix(inner, "]")
	}
	if _, err := netip.ParseAddr(ip); err != nil {
		return "", fmt.Errorf("invalid IP address in add-host: %q", ip)
	}
	return name + ":" + ip, nil
}

// parseDNS reads --dns: an address.
func parseDNS(s string) (string, error) {
	ip, err := netip.ParseAddr(strings.TrimSpace(s))
	if err != nil {
		return "", fmt.Errorf("IP address is not correctly formatted: %s", s)
	}
	return ip.String(), nil
}

// parseDNSSearch reads --dns-search: a domain, or "." for no search at all.
func parseDNSSearch(s string) (string, error) {
	s = strings.TrimSpace(s)
	if s == "." {
		return s, nil
	}
	bad := fmt.Errorf("%s is not a valid domain", s)
	name := strings.TrimSuffix(s, ".")
	if name == "" || len(name) > 255 {
		return "", bad
	}
	letters := false
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' {
			return "", bad
		}
		for _, c := range []byte(label) {
			switch {
			case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
				letters = true
			case c >= '0' && c <= '9', c == '-', c == '_':
			default:
				return "", bad
			}
		}
	}
	if !letters {
		return "", bad
	}
	return s, nil
}

// checkNetwork refuses the networks that docker has and moss has not yet. The
// empty one is the default.
func checkNetwork(s string) error {
	switch s {
	case "", "host", "none":
		return nil
	}
	names := []string{"host", "none"}
	return &fail.Error{
		Op:  fmt.Sprintf("--network %s: want host or none%s", s, didYouMean("", s, names)),
		Why: "private networks (docker's bridge, names of your own, container:NAME) are not built yet; until they are, the default is the host's network",
		Try: "--network host to share the host's network, --network none for a lone loopback device",
	}
}
