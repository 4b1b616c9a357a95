package oci

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
)

// Platform says what an image runs on (image-spec image-index.md).
type Platform struct {
	Architecture string   `json:"architecture"`
	OS           string   `json:"os"`
	OSVersion    string   `json:"os.version,omitempty"`
	OSFeatures   []string `json:"os.features,omitempty"`
	Variant      string   `json:"variant,omitempty"`
}

// Host is the platform this binary was built for.
func Host() Platform {
	p := Platform{OS: "linux", Architecture: runtime.GOARCH}
	if p.Architecture == "arm64" {
		p.Variant = "v8"
	}
	return p
}

// aliases are the machine names people type instead of Go's, which OCI uses.
var aliases = map[string]string{
	"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64",
	"i386": "386", "i686": "386", "armhf": "arm", "armel": "arm",
}

// ParsePlatform reads "os/arch[/variant]" or a bare "arch", as --platform
// takes it.
func ParsePlatform(s string) (Platform, error) {
	parts := strings.Split(strings.ToLower(s), "/")
	if len(parts) == 1 {
		parts = []string{"linux", parts[0]}
	}
	if len(parts) > 3 || slices.Contains(parts, "") {
		return Platform{}, fmt.Errorf("platform %q: want os/arch[/variant], for example linux/arm64", clip(s))
	}
	p := Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	switch p.Architecture {
	case "armhf":
		p.Variant = "v7"
	case "armel":
		p.Variant = "v6"
	}
	if a, ok := aliases[p.Architecture]; ok {
		p.Architecture = a
	}
	return p.normalized(), nil
}

func (p Platform) normalized() Platform {
	if p.OS == "" {
		p.OS = "linux"
	}
	switch {
	case p.Architecture == "arm64" && (p.Variant == "8" || p.Variant == ""):
		p.Variant = "v8"
	case p.Architecture == "arm" && p.Variant == "":
		p.Variant = "v7"
	case p.Architecture == "arm" && len(p.Variant) == 1:
		p.Variant = "v" + p.Variant
	case p.Architecture == "amd64" && p.Variant == "v1":
		p.Variant = ""
	}
	return p
}

// String is os/arch[/variant], with the variant left out where it is the
// architecture's only one.
func (p Platform) String() string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" && !(p.Architecture == "arm64" && p.Variant == "v8") {
		s += "/" + p.Variant
	}
	return s
}

// Fits reports whether an image for p runs where want was asked for: same
// system and architecture, and the same variant or, on arm and amd64, an older
// one. An amd64 image without variant is the oldest.
func (p Platform) Fits(want Platform) bool {
	p, want = p.normalized(), want.normalized()
	if p.OS != want.OS || p.Architecture != want.Architecture {
		return false
	}
	ordered := p.Architecture == "arm" || p.Architecture == "amd64" // v5 v6 v7; v2 v3 v4
	return p.Variant == want.Variant || ordered && p.Variant < want.Variant
}
