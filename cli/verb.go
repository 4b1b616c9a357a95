package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// verb is one thing moss can do. The functions named xVerb make them; they are
// functions and not variables so that a command pays for the one it runs.
type verb struct {
	names    []string // the first is the one shown; docker's longer forms follow
	args     string   // "[OPTIONS] IMAGE [COMMAND] [ARG...]"
	short    string   // one line
	long     string   // below the flags; "" when the flags say it all
	examples string   // lines of "# what" and "moss …"
	min, max int      // number of arguments; max < 0: any

	// flagsFirst: the first argument ends the flags, the rest belongs to the
	// container's command.
	flagsFirst bool
	// flags declares the verb's flags on f and returns what runs after they
	// are parsed.
	flags func(c *command, f *pflag.FlagSet) action
	// complete lists what may stand as the next argument; nil: nothing.
	complete func(c *command, args []string) []candidate
}

// action runs a verb on its arguments.
type action func(args []string) error

// groups are docker's management commands: "moss image ls".
const groups = "container image system"

func isGroup(name string) bool {
	for g := range strings.FieldsSeq(groups) {
		if g == name {
			return true
		}
	}
	return false
}

func groupShort(name string) string {
	switch name {
	case "container":
		return "Manage containers"
	case "image":
		return "Manage images"
	default:
		return "Manage moss"
	}
}

// verbs is the table of contents, in the order help shows it.
func verbs() []*verb {
	return []*verb{
		runVerb(), pullVerb(), imagesVerb(), psVerb(),
		inspectVerb(), containerInspectVerb(), imageInspectVerb(),
		rmVerb(), rmiVerb(),
		infoVerb(), versionVerb(), completionVerb(),
	}
}

// findVerb returns the verb with this name, in any of its forms, or nil.
func findVerb(name string) *verb {
	for _, v := range verbs() {
		for _, n := range v.names {
			if n == name {
				return v
			}
		}
	}
	return nil
}

// verbNames are all names, for completion and "did you mean".
func verbNames() []string {
	all := []string{"help"}
	for _, v := range verbs() {
		all = append(all, v.names...)
	}
	return all
}

// isTop reports whether the verb is shown by "moss help".
func (v *verb) isTop() bool { return !strings.Contains(v.names[0], " ") }

// usage is the verb's synopsis.
func (v *verb) usage() string { return strings.TrimSpace("moss " + v.names[0] + " " + v.args) }

// flagSet builds the verb's flags. Every verb has --help and --explain.
func (v *verb) flagSet(c *command) (*pflag.FlagSet, action) {
	f := pflag.NewFlagSet(v.names[0], pflag.ContinueOnError)
	quiet(f)
	f.SetInterspersed(!v.flagsFirst)
	run := v.flags(c, f)
	c.explainFlag(f)
	short := "h"
	if f.ShorthandLookup("h") != nil { // run's --hostname, as docker has it
		short = ""
	}
	boolFlag(f, new(bool), "help", short, "Print usage")
	return f, run
}

// checkCount words a wrong number of arguments as docker does.
func (v *verb) checkCount(n int) error {
	arguments := func(n int) string {
		if n == 1 {
			return "1 argument"
		}
		return fmt.Sprintf("%d arguments", n)
	}
	var want string
	switch {
	case n >= v.min && (v.max < 0 || n <= v.max):
		return nil
	case v.max == 0:
		want = "accepts no arguments"
	case v.min == v.max:
		want = "requires " + arguments(v.min)
	case n < v.min:
		want = "requires at least " + arguments(v.min)
	default:
		want = "accepts at most " + arguments(v.max)
	}
	return errors.New("'moss " + v.names[0] + "' " + want)
}
