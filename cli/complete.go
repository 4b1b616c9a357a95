package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// completeWord is the hidden verb that the shells' scripts call at every TAB:
//
//	moss __complete WORD…
//
// WORD… are the words behind "moss", the last one being typed and possibly
// empty. The answer is a line ":none", ":files" or ":dirs" that says what else
// the shell should offer, then one candidate per line, its description after a
// tab. Asking moss itself keeps the scripts small and never out of date.
const completeWord = "__complete"

// candidate is one possible word.
type candidate struct{ word, about string }

// Kinds of words that the shell knows better than moss.
const (
	offerNothing = ":none"
	offerFiles   = ":files"
	offerDirs    = ":dirs"
)

func (c *command) complete(words []string) error {
	if len(words) == 0 {
		words = []string{""}
	}
	also, all := c.candidates(words[:len(words)-1], words[len(words)-1])
	var b strings.Builder
	b.WriteString(also + "\n")
	for _, w := range all {
		about, _, _ := strings.Cut(w.about, "\n")
		b.WriteString(w.word)
		if about != "" {
			b.WriteString("\t" + about)
		}
		b.WriteByte('\n')
	}
	_, err := fmt.Fprint(c.out, b.String())
	return err
}

// candidates completes typed, which follows before.
func (c *command) candidates(before []string, typed string) (string, []candidate) {
	global := pflag.NewFlagSet("moss", pflag.ContinueOnError)
	quiet(global)
	global.SetInterspersed(false)
	c.globalFlags(global)
	if owner, also := wantsValue(global, before); owner != "" {
		return also, nil
	}
	if global.Parse(before) != nil {
		return offerNothing, nil
	}
	rest := global.Args()
	if len(rest) == 0 {
		if strings.HasPrefix(typed, "-") {
			return offerNothing, withPrefix(typed, flagCandidates(global))
		}
		return offerNothing, withPrefix(typed, verbCandidates())
	}
	if rest[0] == "help" {
		return offerNothing, withPrefix(typed, verbCandidates())
	}
	if isGroup(rest[0]) && len(rest) == 1 {
		return offerNothing, withPrefix(typed, groupCandidates(rest[0]))
	}
	v, args, err := resolve(rest)
	if err != nil || v == nil {
		return offerNothing, nil
	}
	return c.verbWords(v, args, typed)
}

// verbWords completes behind a verb: a flag, its value, or an argument.
func (c *command) verbWords(v *verb, before []string, typed string) (string, []candidate) {
	f, _ := v.flagSet(c)
	if owner, also := wantsValue(f, before); owner != "" {
		return also, withPrefix(typed, valueCandidates(owner))
	}
	if name, value, ok := strings.Cut(typed, "="); ok && strings.HasPrefix(name, "--") {
		var all []candidate
		for _, w := range withPrefix(value, valueCandidates(name[2:])) {
			all = append(all, candidate{name + "=" + w.word, w.about})
		}
		return offerNothing, all
	}
	if f.Parse(before) != nil {
		return offerNothing, nil
	}
	if v.flagsFirst && f.NArg() > 0 {
		return offerFiles, nil // the container's command
	}
	if strings.HasPrefix(typed, "-") {
		return offerNothing, withPrefix(typed, flagCandidates(f))
	}
	if v.complete == nil || v.max >= 0 && f.NArg() >= v.max {
		return offerNothing, nil
	}
	return offerNothing, withPrefix(typed, v.complete(c, f.Args()))
}

// wantsValue returns the flag that the next word is the value of, and what the
// shell may offer for it.
func wantsValue(f *pflag.FlagSet, before []string) (owner, also string) {
	if len(before) == 0 || f.Parse(before[:len(before)-1]) != nil || f.NArg() > 0 && !interspersed(f, before) {
		return "", ""
	}
	last := before[len(before)-1]
	var flag *pflag.Flag
	switch {
	case strings.HasPrefix(last, "--") && len(last) > 2 && !strings.Contains(last, "="):
		flag = f.Lookup(last[2:])
	case len(last) > 1 && last[0] == '-' && last[1] != '-':
		// -it takes nothing; -itv takes a value; in -v/a:/b it is there.
		for i, letter := range last[1:] {
			flag = f.ShorthandLookup(string(letter))
			if flag == nil || flag.NoOptDefVal == "" {
				if flag != nil && i+2 < len(last) {
					flag = nil
				}
				break
			}
		}
	}
	if flag == nil || flag.NoOptDefVal != "" {
		return "", ""
	}
	switch flag.Name {
	case "env-file", "label-file", "cidfile", "volume", "security-opt":
		return flag.Name, offerFiles
	case "rootfs", "root", "runroot":
		return flag.Name, offerDirs
	}
	return flag.Name, offerNothing
}

// interspersed reports whether f still reads flags after before's arguments.
func interspersed(f *pflag.FlagSet, before []string) bool {
	return f.Name() != "run" && f.Name() != "moss" && !contains(before, "--")
}

// valueCandidates are the values of flags that have few.
func valueCandidates(flag string) []candidate {
	words := ""
	switch flag {
	case "network":
		words = "host none"
	case "pull":
		words = "missing always never"
	case "type":
		words = "container image"
	case "format":
		words = "json table"
	case "platform":
		words = "linux/amd64 linux/arm64 linux/arm/v7 linux/386"
	case "cap-add", "cap-drop":
		words = "ALL AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_ADMIN NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP SETUID SYS_ADMIN SYS_CHROOT SYS_PTRACE"
	case "security-opt":
		words = "no-new-privileges seccomp=unconfined"
	case "stop-signal":
		words = "SIGTERM SIGINT SIGQUIT SIGHUP SIGKILL SIGUSR1 SIGUSR2"
	}
	var all []candidate
	for w := range strings.FieldsSeq(words) {
		all = append(all, candidate{word: w})
	}
	return all
}

func verbCandidates() []candidate {
	var all []candidate
	for _, v := range verbs() {
		if v.isTop() {
			all = append(all, candidate{v.names[0], v.short})
		}
	}
	all = append(all, candidate{"help", "Show what a command does, its flags and examples"})
	for g := range strings.FieldsSeq(groups) {
		all = append(all, candidate{g, groupShort(g)})
	}
	return all
}

func groupCandidates(group string) []candidate {
	var all []candidate
	for _, v := range verbs() {
		for _, name := range v.names {
			if member, ok := strings.CutPrefix(name, group+" "); ok {
				all = append(all, candidate{member, v.short})
			}
		}
	}
	return all
}

func flagCandidates(f *pflag.FlagSet) []candidate {
	var all []candidate
	f.VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			all = append(all, candidate{"--" + f.Name, strings.ReplaceAll(f.Usage, "`", "")})
		}
	})
	return all
}

func withPrefix(typed string, all []candidate) []candidate {
	var kept []candidate
	for _, w := range all {
		if strings.HasPrefix(w.word, typed) {
			kept = append(kept, w)
		}
	}
	return kept
}

// imageCandidates are the names in the store. A store that cannot be read
// offers nothing: a shell is no place for an error.
func (c *command) imageCandidates(args []string) []candidate {
	e, err := c.open()
	if err != nil {
		return nil
	}
	defer e.Close()
	images, err := e.Store.Images()
	if err != nil {
		return nil
	}
	var all []candidate
	for _, img := range images {
		for _, n := range img.Names {
			if name := n.Familiar(); !contains(args, name) {
				all = append(all, candidate{name, img.ID.Short()})
			}
		}
	}
	return all
}

// containerCandidates are the names of all containers.
func (c *command) containerCandidates(args []string) []candidate {
	e, err := c.open()
	if err != nil {
		return nil
	}
	defer e.Close()
	records, err := e.List()
	if err != nil {
		return nil
	}
	var all []candidate
	for _, r := range records {
		if !contains(args, r.Name) {
			all = append(all, candidate{r.Name, r.ImageName})
		}
	}
	return all
}

func (c *command) anyCandidates(args []string) []candidate {
	return append(c.containerCandidates(args), c.imageCandidates(args)...)
}
