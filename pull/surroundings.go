package pull

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// surroundings is what a pull finds around it. Tests put their own in place.
type surroundings struct {
	etc        string // "/etc"
	home       string // "" when there is none
	configHome string // $XDG_CONFIG_HOME or ~/.config
	cacheHome  string
	runtimeDir string // $XDG_RUNTIME_DIR, or what podman uses without one
	getenv     func(string) string
	proxy      func(*http.Request) (*url.URL, error)
	sleep      func(context.Context, time.Duration) error
	stall      time.Duration // a connection that gives no byte for so long is broken
}

func around() *surroundings {
	s := &surroundings{
		etc:        "/etc",
		home:       os.Getenv("HOME"),
		configHome: os.Getenv("XDG_CONFIG_HOME"),
		cacheHome:  os.Getenv("XDG_CACHE_HOME"),
		runtimeDir: os.Getenv("XDG_RUNTIME_DIR"),
		getenv:     os.Getenv,
		proxy:      http.ProxyFromEnvironment,
		sleep:      sleep,
		stall:      time.Minute,
	}
	if s.configHome == "" && s.home != "" {
		s.configHome = filepath.Join(s.home, ".config")
	}
	if s.cacheHome == "" && s.home != "" {
		s.cacheHome = filepath.Join(s.home, ".cache")
	}
	if s.runtimeDir == "" {
		// Where podman login writes without $XDG_RUNTIME_DIR.
		s.runtimeDir = fmt.Sprintf("/run/containers/%d", os.Getuid())
	}
	return s
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// backoff grows from half a second to eight, and varies by half so that many
// clients that were turned away together do not come back together.
func backoff(try int) time.Duration {
	d := 500 * time.Millisecond << min(try, 4)
	return d/2 + rand.N(d)
}

// clip makes text from elsewhere fit to be shown: one line, no control
// characters that could steer a terminal, at most n bytes.
func clip(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == utf8.RuneError:
			return -1
		}
		return r
	}, s)
	s = strings.TrimSpace(s)
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
