package cli

import (
	"bytes"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/pflag"
)

// version and commit are set by the linker for a release:
// -ldflags "-X moss/cli.version=1.2.3". Otherwise the build information tells.
var version, commit string

// clientVersion is what "moss version" knows; there is no server.
type clientVersion struct {
	Version   string
	GitCommit string
	GoVersion string
	Os        string
	Arch      string
	BuildTime string
}

func thisVersion() clientVersion {
	v := clientVersion{
		Version: version, GitCommit: commit,
		GoVersion: runtime.Version(), Os: runtime.GOOS, Arch: runtime.GOARCH,
	}
	info, ok := debug.ReadBuildInfo()
	if ok {
		dirty := ""
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision" && v.GitCommit == "":
				v.GitCommit = shortID(s.Value)
			case s.Key == "vcs.time":
				v.BuildTime = s.Value
			case s.Key == "vcs.modified" && s.Value == "true" && commit == "":
				dirty = "-dirty"
			}
		}
		if v.GitCommit != "" {
			v.GitCommit += dirty
		}
	}
	if v.Version == "" {
		v.Version = "dev"
	}
	return v
}

func versionVerb() *verb {
	return &verb{
		names: []string{"version"},
		args:  "[OPTIONS]",
		short: "Show the moss version information",
		examples: `
# All there is to say
moss version
# The number only
moss version --format '{{.Client.Version}}'
# For a program
moss version --format json`,
		flags: func(c *command, f *pflag.FlagSet) action {
			format := f.StringP("format", "f", "", inspectFormat)
			return func([]string) error { return c.printVersion(*format) }
		},
	}
}

func (c *command) printVersion(format string) error {
	v := thisVersion()
	if format != "" {
		return c.printObject(format, struct{ Client clientVersion }{v})
	}
	var b bytes.Buffer
	b.WriteString("Client:\n")
	for _, line := range [][2]string{
		{"Version:", v.Version}, {"Go version:", v.GoVersion}, {"Git commit:", v.GitCommit},
		{"Built:", v.BuildTime}, {"OS/Arch:", v.Os + "/" + v.Arch},
	} {
		if line[1] != "" {
			fmt.Fprintf(&b, " %-18s%s\n", line[0], line[1])
		}
	}
	_, err := c.out.Write(b.Bytes())
	return err
}

// printShortVersion is "moss --version".
func (c *command) printShortVersion() error {
	v := thisVersion()
	text := "moss version " + v.Version
	if v.GitCommit != "" {
		text += ", build " + v.GitCommit
	}
	_, err := fmt.Fprintln(c.out, text)
	return err
}

// printObject is --format on one object: json, or a template.
func (c *command) printObject(format string, object any) error {
	var b bytes.Buffer
	if format == "json" {
		text, err := marshal(object, "")
		if err != nil {
			return err
		}
		b.Write(text)
	} else if err := executeOn(&b, format, object); err != nil {
		return err
	}
	b.WriteByte('\n')
	_, err := c.out.Write(b.Bytes())
	return err
}
