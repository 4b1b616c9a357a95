package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"moss/container"
	"moss/fail"
	"moss/pull"
)

func runVerb() *verb {
	return &verb{
		names: []string{"run", "container run"},
		args:  "[OPTIONS] IMAGE [COMMAND] [ARG...]",
		short: "Create and run a new container from an image",
		long: `Flags end at the image; what follows belongs to the container's command.

The network is the host's unless --network none is given. Private networks and
published ports are not built yet; when they are, the default changes to
docker's.

Exit status: 125 moss itself failed, 126 the command cannot be invoked, 127 it
was not found, 128+N it died of signal N, otherwise its own.`,
		examples: `
# See a container from the inside; built in, needs no network
moss run --rm hello
# A shell in Debian, removed when you leave
moss run -it --rm debian
# A command on the files of this directory, without network
moss run --rm -v .:/src -w /src --network none debian make
# As another user, with variables and one capability less
moss run --rm -u 1000:1000 -e LANG=C --env-file vars --cap-drop net_raw debian env
# The host's own tree, with a private layer for what is written
moss run -it --rm --rootfs / bash
# What happens, step by step
moss run --explain --rm debian true`,
		min: 0, max: -1,
		flagsFirst: true,
		complete:   (*command).imageCandidates,
		flags: func(c *command, f *pflag.FlagSet) action {
			r := &runOptions{command: c}
			r.declare(f)
			return func(args []string) error { return r.run(f, args) }
		},
	}
}

// runOptions are run's flags: those that are container.Options as they stand,
// and those that need more reading once all are known.
type runOptions struct {
	*command
	o          container.Options
	envFiles   []string
	env        []string
	labelFiles []string
	labels     []string
	tlsVerify  *bool
}

func (r *runOptions) declare(f *pflag.FlagSet) {
	o := &r.o
	strs := func(to *[]string, check func(string) (string, error), name, short, usage string) {
		f.VarP(&list{to, check}, name, short, usage)
	}
	boolFlag(f, &o.Interactive, "interactive", "i", "Keep STDIN open even if not attached")
	boolFlag(f, &o.TTY, "tty", "t", "Allocate a pseudo-TTY")
	boolFlag(f, &o.Remove, "rm", "", "Automatically remove the container and its associated anonymous volumes when it exits")
	boolFlag(f, &o.Init, "init", "", "Run an init inside the container that forwards signals and reaps processes")
	boolFlag(f, &o.Privileged, "privileged", "", "Give extended privileges to this container")
	boolFlag(f, &o.ReadOnly, "read-only", "", "Mount the container's root filesystem as read only")
	boolFlag(f, &o.Quiet, "quiet", "q", "Suppress the pull output")

	f.StringVar(&o.Name, "name", "", "Assign a name to the container")
	f.StringVar(&o.CIDFile, "cidfile", "", "Write the container ID to the `file`")
	f.StringVarP(&o.Hostname, "hostname", "h", "", "Container host name")
	f.StringVarP(&o.User, "user", "u", "", "Username or UID (format: <name|uid>[:<group|gid>])")
	f.StringVarP(&o.WorkingDir, "workdir", "w", "", "Working directory inside the container")
	f.StringVar(&o.StopSignal, "stop-signal", "", "Signal to stop the container")
	f.StringVar(&o.Rootfs, "rootfs", "", "Use this `directory` as the root instead of an image (/: the host's own, with a private layer on top)")
	f.Var(optionalString{&o.Entrypoint}, "entrypoint", "Overwrite the default ENTRYPOINT of the image (\"\" for none)")
	f.Var(platformValue{&o.Platform}, "platform", "Set platform if server is multi-platform capable")

	o.Pull = "missing"
	f.Var(oneOf{&o.Pull, "missing always never"}, "pull", `Pull image before running ("always", "missing", "never") (default "missing")`)
	tls := f.VarPF(optionalBool{&r.tlsVerify}, "tls-verify", "", "Require HTTPS and verify certificates when pulling (default true, except for loopback addresses)")
	tls.NoOptDefVal = "true"

	strs(&r.env, parseEnv, "env", "e", "Set environment variables (VAR alone: the caller's value)")
	strs(&r.envFiles, nil, "env-file", "", "Read in a file of environment variables")
	strs(&r.labels, parseLabel, "label", "l", "Set meta data on a container")
	strs(&r.labelFiles, nil, "label-file", "", "Read in a line delimited file of labels")
	strs(&o.CapAdd, nil, "cap-add", "", "Add Linux capabilities")
	strs(&o.CapDrop, nil, "cap-drop", "", "Drop Linux capabilities")
	strs(&o.SecurityOpt, nil, "security-opt", "", "Security Options (no-new-privileges, seccomp=unconfined|FILE)")
	strs(&o.GroupAdd, nil, "group-add", "", "Add additional groups to join")

	o.Network = "host"
	f.StringVar(&o.Network, "network", "host", "Connect a container to a `network`: host (until private networks are built) or none")
	strs(&o.AddHosts, parseAddHost, "add-host", "", "Add a custom host-to-IP mapping (host:ip)")
	strs(&o.DNS, parseDNS, "dns", "", "Set custom DNS servers")
	strs(&o.DNSSearch, parseDNSSearch, "dns-search", "", "Set custom DNS search domains")
	strs(&o.DNSOptions, nil, "dns-option", "", "Set DNS options")

	mount := func(kind string, parse func(string) (container.Mount, error), name, short, usage string) {
		f.VarP(&mountValue{&o.Mounts, kind, parse}, name, short, usage)
	}
	mount("list", parseVolume, "volume", "v", "Bind mount a volume (SOURCE:TARGET[:ro])")
	mount("mount", parseMount, "mount", "", "Attach a filesystem mount to the container (type=bind,source=…,target=…)")
	mount("list", parseTmpfs, "tmpfs", "", "Mount a tmpfs directory")
	f.Var(ulimitValue{&o.Ulimits}, "ulimit", "Ulimit options (NAME=SOFT[:HARD])")
	f.Var(bytesValue{&o.ShmSize}, "shm-size", "Size of /dev/shm (default 64m)")

	// Docker's older spellings, accepted and not shown.
	f.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		switch name {
		case "net":
			name = "network"
		case "dns-opt":
			name = "dns-option"
		}
		return pflag.NormalizedName(name)
	})
}

// run is where moss run begins.
func (r *runOptions) run(f *pflag.FlagSet, args []string) error {
	// [run 2/9] cli: flags become container.Options; no kernel word yet.
	o := &r.o
	switch {
	case o.Rootfs != "":
		o.Args = args
	case len(args) == 0:
		return &fail.Usage{Command: "run", Err: errors.New("'moss run' requires at least 1 argument")}
	default:
		o.Image, o.Args = args[0], args[1:]
	}
	if !f.Changed("network") {
		o.Network = "" // the host's, but not its name
	}
	if o.StopSignal != "" && !validSignal(o.StopSignal) {
		return &fail.ExitError{Status: fail.StatusMoss, Err: &fail.Error{Op: "--stop-signal", On: o.StopSignal,
			Err: errors.New("no such signal"), Try: "a name such as SIGTERM or INT, or a number from 1 to 64 (signal(7))"}}
	}
	if err := r.finish(); err != nil {
		return &fail.ExitError{Status: fail.StatusMoss, Err: err}
	}
	if o.TTY && o.Interactive && !isTerminal(r.in) {
		return &fail.Error{
			Op:  "the input device is not a TTY",
			Why: "-t gives the container a terminal, and -i would feed it from standard input, which is not one",
			Try: "moss run -i without -t",
		}
	}
	e, err := r.open()
	if err != nil {
		return &fail.ExitError{Status: fail.StatusMoss, Err: err}
	}
	defer e.Close()
	p := newProgress(r.err, progressFor{run: true, quiet: o.Quiet, always: o.Pull == "always", told: r.explain.On()})
	defer p.Close()
	status, err := e.Run(context.Background(), *o, pull.Options{
		Platform: o.Platform, TLSVerify: r.tlsVerify, Progress: p, Explain: r.explain, Warn: r.warn,
	})
	p.Close()
	return exitStatus(status, err)
}

// validSignal accepts what docker does: a number, or a name with or without SIG.
func validSignal(s string) bool {
	if n, err := strconv.Atoi(s); err == nil {
		return n >= 1 && n <= 64
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	return unix.SignalNum(name) != 0 || strings.HasPrefix(name, "SIGRTM")
}

// exitStatus passes the container's own status on; an error without a status
// is moss's.
func exitStatus(status int, err error) error {
	var exit *fail.ExitError
	switch {
	case errors.As(err, &exit):
		return err
	case err != nil:
		return &fail.ExitError{Status: fail.StatusMoss, Err: err}
	case status != 0:
		return &fail.ExitError{Status: status}
	}
	return nil
}

// finish reads the files that flags name and checks what no single flag can.
func (r *runOptions) finish() error {
	o := &r.o
	for _, path := range r.envFiles {
		vars, err := readEnvFile(path)
		if err != nil {
			return err
		}
		o.Env = append(o.Env, vars...)
	}
	o.Env = append(o.Env, r.env...)
	var labels []string
	for _, path := range r.labelFiles {
		more, err := readLabelFile(path)
		if err != nil {
			return err
		}
		labels = append(labels, more...)
	}
	o.Labels = toMap(append(labels, r.labels...))
	if err := checkNetwork(o.Network); err != nil {
		return err
	}
	if o.WorkingDir != "" && !strings.HasPrefix(o.WorkingDir, "/") {
		return fmt.Errorf("the working directory '%s' is invalid, it needs to be an absolute path", o.WorkingDir)
	}
	return checkDuplicates(o.Mounts)
}
