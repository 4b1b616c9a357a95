package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"
)

// help is "moss help [VERB]" and "moss --help VERB".
func (c *command) help(args []string) error {
	if len(args) == 0 {
		return c.printOverview()
	}
	if args[0] == "help" {
		return c.printOverview()
	}
	v, _, err := resolve(args)
	switch {
	case err != nil:
		return err
	case v == nil:
		return c.printGroup(args[0])
	default:
		return c.printHelp(v)
	}
}

// printOverview is what "moss" alone prints.
func (c *command) printOverview() error {
	var b strings.Builder
	b.WriteString("Usage:  moss [OPTIONS] COMMAND\n\n" +
		"Containers for one ordinary user: no daemon, no root, nothing to set up\n\n" +
		"Commands:\n")
	for _, v := range verbs() {
		if v.isTop() {
			fmt.Fprintf(&b, "  %-12s%s\n", v.names[0], v.short)
		}
	}
	fmt.Fprintf(&b, "  %-12s%s\n", "help", "Show what a command does, its flags and examples")
	b.WriteString("\nManagement Commands:\n")
	for g := range strings.FieldsSeq(groups) {
		fmt.Fprintf(&b, "  %-12s%s\n", g, groupShort(g))
	}
	b.WriteString("\nGlobal Options:\n")
	f := pflag.NewFlagSet("moss", pflag.ContinueOnError)
	c.globalFlags(f)
	b.WriteString(f.FlagUsagesWrapped(c.helpWidth()))
	b.WriteString(`
Examples:
  # See a container from the inside; needs no network
  moss run hello
  # A shell in Debian
  moss run -it --rm debian
  # The same, told step by step
  moss --explain run -it --rm debian

Run 'moss COMMAND --help' for more information on a command.
`)
	_, err := io.WriteString(c.out, b.String())
	return err
}

// printGroup is what "moss image" alone prints.
func (c *command) printGroup(group string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Usage:  moss %s COMMAND\n\n%s\n\nCommands:\n", group, groupShort(group))
	for _, v := range verbs() {
		for _, name := range v.names {
			if member, ok := strings.CutPrefix(name, group+" "); ok {
				fmt.Fprintf(&b, "  %-12s%s\n", member, v.short)
				break
			}
		}
	}
	fmt.Fprintf(&b, "\nRun 'moss %s COMMAND --help' for more information on a command.\n", group)
	_, err := io.WriteString(c.out, b.String())
	return err
}

// printHelp is "moss VERB --help".
func (c *command) printHelp(v *verb) error {
	_, err := io.WriteString(c.out, c.helpText(v, c.helpWidth()))
	return err
}

func (c *command) helpText(v *verb, width int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Usage:  %s\n\n%s\n", v.usage(), v.short)
	if len(v.names) > 1 {
		forms := append(v.names[1:len(v.names):len(v.names)], v.names[0])
		fmt.Fprintf(&b, "\nAliases:\n  moss %s\n", strings.Join(forms, ", moss "))
	}
	f, _ := v.flagSet(c)
	b.WriteString("\nOptions:\n" + f.FlagUsagesWrapped(width))
	if v.long != "" {
		b.WriteString("\n" + strings.TrimSpace(v.long) + "\n")
	}
	b.WriteString("\nExamples:\n")
	for line := range strings.SplitSeq(strings.TrimSpace(v.examples), "\n") {
		b.WriteString("  " + line + "\n")
	}
	return b.String()
}

// helpWidth is the terminal's width, or 80.
func (c *command) helpWidth() int {
	if w := terminalWidth(c.out); w > 20 {
		return w
	}
	return 80
}
