package cli

import (
	"os"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// testCommand talks to nobody and has a store of its own.
func testCommand(t *testing.T) *command {
	t.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { null.Close() })
	return &command{in: null, out: null, err: null, root: t.TempDir(), runroot: t.TempDir()}
}

// Every verb teaches: what it is, examples of its own, every flag in words; and
// its help, its examples and its completion agree with what is parsed.
func TestVerbs(t *testing.T) {
	c := testCommand(t)
	seen := map[string]bool{}
	for _, v := range verbs() {
		name := v.names[0]
		for _, n := range v.names {
			if seen[n] {
				t.Errorf("%s: two verbs have this name", n)
			}
			seen[n] = true
		}
		help := c.helpText(v, 80)
		for _, want := range []string{"Usage:  moss " + name, v.short, "Options:", "Examples:"} {
			if !strings.Contains(help, want) {
				t.Errorf("%s --help: no %q", name, want)
			}
		}
		f, _ := v.flagSet(c)
		f.VisitAll(func(flag *pflag.Flag) {
			if len(flag.Usage) < 8 {
				t.Errorf("%s --%s: no description", name, flag.Name)
			}
			words := append(strings.Fields(name), "--"+flag.Name)
			_, found := c.candidates(words[:len(words)-1], words[len(words)-1])
			if len(found) == 0 || found[0].about == "" {
				t.Errorf("%s: completion does not offer --%s", name, flag.Name)
			}
		})
		checkExamples(t, c, v)
	}
}

func checkExamples(t *testing.T, c *command, v *verb) {
	n := 0
	for line := range strings.SplitSeq(strings.TrimSpace(v.examples), "\n") {
		line, ok := strings.CutPrefix(line, "moss ")
		if !ok {
			continue
		}
		n++
		if strings.ContainsAny(line, "$>'") {
			continue // needs a shell
		}
		found, args, err := resolve(withoutGlobals(strings.Fields(line)))
		if err != nil {
			t.Errorf("example %q: %v", line, err)
			continue
		}
		f, _ := found.flagSet(c)
		if err := f.Parse(args); err != nil {
			t.Errorf("example %q: %v", line, err)
		} else if err := found.checkCount(f.NArg()); err != nil {
			t.Errorf("example %q: %v", line, err)
		}
	}
	if n < 2 {
		t.Errorf("%s: %d examples, want two or more", v.names[0], n)
	}
}

func withoutGlobals(words []string) []string {
	if words[0] == "--explain" {
		return words[1:]
	}
	return words
}

func TestComplete(t *testing.T) {
	c := testCommand(t)
	for _, row := range []struct{ line, also, want string }{
		{"ru", offerNothing, "run"},
		{"im", offerNothing, "images image"},
		{"image l", offerNothing, "ls list"},
		{"help ver", offerNothing, "version"},
		{"--ro", offerNothing, "--root"},
		{"--root ", offerDirs, ""},
		{"--root /x ru", offerNothing, "run"},
		{"run --entry", offerNothing, "--entrypoint"},
		{"run --network ", offerNothing, "host none"},
		{"run --network=n", offerNothing, "--network=none"},
		{"run -it --rm --pull a", offerNothing, "always"},
		{"run --env-file ", offerFiles, ""},
		{"run -itv ", offerFiles, ""},
		{"run -v/a:/b --priv", offerNothing, "--privileged"},
		{"run debian --r", offerFiles, ""},
		{"ps --format ", offerNothing, "json table"},
		{"ps x", offerNothing, ""},
		{"inspect --type c", offerNothing, "container"},
		{"completion ", offerNothing, "bash zsh fish"},
		{"completion bash ", offerNothing, ""},
		{"frob ", offerNothing, ""},
		{"run --frob ", offerNothing, ""},
	} {
		words := strings.Split(row.line, " ")
		also, found := c.candidates(words[:len(words)-1], words[len(words)-1])
		var got []string
		for _, w := range found {
			got = append(got, w.word)
		}
		if also != row.also || strings.Join(got, " ") != row.want {
			t.Errorf("%q: got %s %q, want %s %q", row.line, also, got, row.also, row.want)
		}
	}
}

// Options are docker's: they end at the image, single letters combine.
func TestRunFlags(t *testing.T) {
	c := testCommand(t)
	f := pflag.NewFlagSet("run", pflag.ContinueOnError)
	f.SetInterspersed(false)
	r := &runOptions{command: c}
	r.declare(f)
	err := f.Parse(strings.Fields("-it --rm=false -eA=1 -e B=2 -v /a:/b --tmpfs /c:size=1m --mount type=bind,src=/d,dst=/e --net none " +
		"--dns-opt x -h host --entrypoint= -l a=b -l c -uroot --shm-size 1g --ulimit core=0 debian -it --rm sh"))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.finish(); err != nil {
		t.Fatal(err)
	}
	o := r.o
	if !o.Interactive || !o.TTY || o.Remove || o.Network != "none" || o.Hostname != "host" || o.User != "root" || o.ShmSize != 1<<30 {
		t.Errorf("got %+v", o)
	}
	if o.Entrypoint == nil || len(*o.Entrypoint) != 0 {
		t.Errorf("--entrypoint= must mean none, got %v", o.Entrypoint)
	}
	if got := strings.Join(o.Env, " "); got != "A=1 B=2" {
		t.Errorf("env %q", got)
	}
	var targets []string
	for _, m := range o.Mounts {
		targets = append(targets, m.Type+m.Target)
	}
	if got := strings.Join(targets, " "); got != "bind/b tmpfs/c bind/e" {
		t.Errorf("mounts in the order given: %q", got)
	}
	if got := strings.Join(f.Args(), " "); got != "debian -it --rm sh" {
		t.Errorf("arguments %q", got)
	}
	if o.Labels["a"] != "b" || len(o.Labels) != 2 || len(o.DNSOptions) != 1 || len(o.Ulimits) != 1 {
		t.Errorf("got %+v", o)
	}
}
