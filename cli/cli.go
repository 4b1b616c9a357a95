// Package cli is the front door: arguments become options, calls into
// container/ and image/ do the work, and what they answer becomes text.
//
// There is one file per verb. A verb is a value (see verb.go): its names, its
// help, its flags and the function that runs. Help and shell completion are
// made from the same values, so they cannot disagree with what is parsed.
// parse_*.go hold the grammars of flag values (-v, --mount, --env-file, …),
// which are docker's.
//
// Standard output carries only what a script may parse. Everything else,
// errors first, goes to standard error.
package cli

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"moss/explain"
	"moss/fail"
)

// command is one invocation: where it reads and writes, and what the global
// options said.
type command struct {
	in, out, err *os.File

	root, runroot string
	explain       *explain.Narrator
}

// Main runs moss with args (args[0] is the program's name) and returns the
// exit status. Only the flags of the verb that was asked for are built.
func Main(args []string, stdin, stdout, stderr *os.File) int {
	c := &command{in: stdin, out: stdout, err: stderr}
	if v := os.Getenv("MOSS_EXPLAIN"); v != "" && v != "0" {
		c.explain = explain.New(stderr)
	}
	return c.status(c.dispatch(args[1:]))
}

// status reports err and turns it into an exit status.
func (c *command) status(err error) int {
	if err == nil {
		return 0
	}
	status := 1
	var exit *fail.ExitError
	if errors.As(err, &exit) {
		status = exit.Status
		if exit.Err == nil {
			return status
		}
	}
	fail.Print(c.err, err)
	var usage *fail.Usage
	if errors.As(err, &usage) {
		c.pointToHelp(usage.Command)
	}
	return status
}

// pointToHelp prints what docker prints below an error of usage.
func (c *command) pointToHelp(name string) {
	if v := findVerb(name); v != nil {
		fmt.Fprintf(c.err, "\nUsage:  %s\n", v.usage())
	}
	help := "moss --help"
	if name != "" {
		help = "moss " + name + " --help"
	}
	fmt.Fprintf(c.err, "\nRun '%s' for more information\n", help)
}

// dispatch reads the global options, finds the verb and hands over to it.
func (c *command) dispatch(args []string) error {
	global := pflag.NewFlagSet("moss", pflag.ContinueOnError)
	quiet(global)
	global.SetInterspersed(false)
	show := c.globalFlags(global)
	if err := global.Parse(args); err != nil {
		return flagError("", global, err)
	}
	args = global.Args()
	switch {
	case show.version:
		return c.printShortVersion()
	case len(args) == 0:
		return c.printOverview()
	case show.help:
		return c.help(args)
	}
	switch args[0] {
	case "help":
		return c.help(args[1:])
	case completeWord:
		return c.complete(args[1:])
	}
	v, rest, err := resolve(args)
	if err != nil {
		return err
	}
	if v == nil { // a group alone: moss image
		return c.printGroup(args[0])
	}
	return c.runVerb(v, rest)
}

// globals are those global options that end the command at once.
type globals struct{ help, version bool }

func (c *command) globalFlags(f *pflag.FlagSet) *globals {
	g := new(globals)
	f.StringVar(&c.root, "root", "", "Keep images and containers in this directory\n(default $XDG_DATA_HOME/moss)")
	f.StringVar(&c.runroot, "runroot", "", "Keep what need not outlive a boot in this directory\n(default $XDG_RUNTIME_DIR/moss)")
	c.explainFlag(f)
	boolFlag(f, &g.help, "help", "h", "Print usage")
	boolFlag(f, &g.version, "version", "v", "Print version information and quit")
	return g
}

// explainFlag is accepted before the verb and behind it.
func (c *command) explainFlag(f *pflag.FlagSet) {
	f.AddFlag(&pflag.Flag{
		Name:        "explain",
		Usage:       "Print each step to standard error: what, the system call, why, where to read",
		Value:       (*explainValue)(c),
		NoOptDefVal: "true",
	})
}

// explainValue sets command.explain.
type explainValue command

func (e *explainValue) Type() string   { return "bool" } // no word behind it in the help
func (e *explainValue) String() string { return "" }

func (e *explainValue) Set(s string) error {
	switch s {
	case "text", "true", "1":
		if e.explain == nil {
			e.explain = explain.New(e.err)
		}
	case "false", "0":
		e.explain = nil
	default:
		return errors.New("want text, the only form there is yet")
	}
	return nil
}

// resolve finds the verb that args begin with and what follows it. Both are
// nil when args name only a group of verbs.
func resolve(args []string) (*verb, []string, error) {
	name, rest := args[0], args[1:]
	if isGroup(name) {
		if len(rest) == 0 || rest[0] == "--help" || rest[0] == "-h" {
			return nil, nil, nil
		}
		name, rest = name+" "+rest[0], rest[1:]
	}
	if v := findVerb(name); v != nil {
		return v, rest, nil
	}
	err := fmt.Errorf("unknown command: moss %s%s", name, didYouMean("moss ", name, verbNames()))
	if strings.Contains(dockerVerbs, " "+name+" ") {
		err = fmt.Errorf("docker has %s, moss does not yet", name)
	}
	group, _, isMember := strings.Cut(name, " ")
	if !isMember {
		group = ""
	}
	return nil, nil, &fail.Usage{Command: group, Err: err}
}

// runVerb parses the verb's flags and runs it.
func (c *command) runVerb(v *verb, args []string) error {
	f, run := v.flagSet(c)
	help := f.Lookup("help")
	if err := f.Parse(args); err != nil {
		return flagError(v.names[0], f, err)
	}
	if help.Changed {
		return c.printHelp(v)
	}
	if err := v.checkCount(f.NArg()); err != nil {
		return &fail.Usage{Command: v.names[0], Err: err}
	}
	return run(f.Args())
}

// statusBadFlag is what docker ends with after a flag it cannot read, whatever
// the verb (docker 28: "docker ps --frob" ends with 125).
const statusBadFlag = fail.StatusMoss

// flagError words what pflag found wrong.
func flagError(name string, f *pflag.FlagSet, err error) error {
	var missing *pflag.NotExistError
	if errors.As(err, &missing) {
		err = unknownFlag(name, f, missing)
	}
	return &fail.ExitError{Status: statusBadFlag, Err: &fail.Usage{Command: name, Err: err}}
}

func unknownFlag(verbName string, f *pflag.FlagSet, missing *pflag.NotExistError) error {
	if group := missing.GetSpecifiedShortnames(); group != "" {
		short := missing.GetSpecifiedName()
		return &fail.Error{
			Op:  fmt.Sprintf("unknown shorthand flag: '%s' in -%s", short, group),
			Why: notYet(verbName, "-"+short),
		}
	}
	long := "--" + missing.GetSpecifiedName()
	if why := notYet(verbName, long); why != "" {
		return &fail.Error{Op: "unknown flag: " + long, Why: why}
	}
	var known []string
	f.VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			known = append(known, "--"+f.Name)
		}
	})
	return errors.New("unknown flag: " + long + didYouMean("", long, known))
}

// quiet keeps pflag from printing: this package words its errors and helps.
func quiet(f *pflag.FlagSet) {
	f.Usage = func() {}
	f.SortFlags = true
}
