// Command bench times programs against each other: every round runs each of
// them once, so that whatever else the machine does meets them all alike.
//
//	bench [-n ROUNDS] [-warm ROUNDS] [-fresh DIR] [-sync] CASE [--- CASE]…
//
// A CASE is a name and a command: NAME [VAR=VALUE…] PROGRAM [ARG…]. The
// program is started directly, no shell is between. In the arguments and
// values {} stands for a directory that is new in every round and case; it is
// made below DIR and left there, because ext4 is many times slower at writing
// right after a tree was deleted.
//
// It prints a line per case, separated by tabs: name; median, minimum and 25th
// percentile of the time in milliseconds; the median processor time; the
// largest resident set in KiB (getrusage(2): of the program or of a child it
// waited for, whichever is larger).
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

type subject struct {
	name  string
	env   []string
	argv  []string
	times []time.Duration
	cpu   []time.Duration
	rss   int64
}

func main() {
	rounds := flag.Int("n", 50, "rounds that count")
	warm := flag.Int("warm", 3, "rounds before them that do not")
	fresh := flag.String("fresh", "", "where directories for {} are made")
	flush := flag.Bool("sync", false, "write everything to disk before each run, so that none pays for another's")
	flag.Parse()
	subjects, err := parse(flag.Args())
	if err == nil {
		err = measure(subjects, *warm, *rounds, *fresh, *flush)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	for _, s := range subjects {
		slices.Sort(s.times)
		slices.Sort(s.cpu)
		n := len(s.times)
		fmt.Printf("%s\t%.2f\t%.2f\t%.2f\t%.2f\t%d\n", s.name, ms(s.times[n/2]), ms(s.times[0]), ms(s.times[n/4]), ms(s.cpu[n/2]), s.rss)
	}
}

func parse(args []string) ([]*subject, error) {
	var all []*subject
	for len(args) > 0 {
		end := slices.Index(args, "---")
		words := args
		if end >= 0 {
			words, args = args[:end], args[end+1:]
		} else {
			args = nil
		}
		if len(words) < 2 {
			return nil, errors.New("a case is a name and a command")
		}
		s := &subject{name: words[0], env: os.Environ()}
		words = words[1:]
		for len(words) > 1 && strings.Contains(words[0], "=") {
			s.env = append(s.env, words[0])
			words = words[1:]
		}
		program, err := exec.LookPath(words[0])
		if err != nil {
			return nil, err
		}
		s.argv = append([]string{program}, words[1:]...)
		all = append(all, s)
	}
	if len(all) == 0 {
		return nil, errors.New("nothing to measure")
	}
	return all, nil
}

func measure(subjects []*subject, warm, rounds int, fresh string, flush bool) error {
	for round := range warm + rounds {
		for i := range subjects {
			// Each round starts with another, so that none always runs after the same.
			s := subjects[(i+round)%len(subjects)]
			dir := ""
			if fresh != "" {
				dir = filepath.Join(fresh, fmt.Sprintf("%d-%d", round, (i+round)%len(subjects)))
				if err := os.MkdirAll(dir, 0o755); err != nil {
					return err
				}
			}
			if flush {
				syscall.Sync()
			}
			elapsed, usage, err := s.once(dir)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			if round < warm {
				continue
			}
			s.times = append(s.times, elapsed)
			s.cpu = append(s.cpu, time.Duration(usage.Utime.Nano()+usage.Stime.Nano()))
			s.rss = max(s.rss, usage.Maxrss)
		}
	}
	return nil
}

// once runs the program; what it says is shown only if it fails.
func (s *subject) once(dir string) (time.Duration, *syscall.Rusage, error) {
	fill := func(words []string) []string {
		out := make([]string, len(words))
		for i, w := range words {
			out[i] = strings.ReplaceAll(w, "{}", dir)
		}
		return out
	}
	var said bytes.Buffer
	r, w, err := os.Pipe()
	if err != nil {
		return 0, nil, err
	}
	defer r.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, nil, err
	}
	defer null.Close()
	attr := &os.ProcAttr{Env: fill(s.env), Files: []*os.File{null, w, w}}
	read := make(chan struct{})
	go func() { said.ReadFrom(r); close(read) }()
	start := time.Now()
	p, err := os.StartProcess(s.argv[0], fill(s.argv), attr)
	if err != nil {
		return 0, nil, err
	}
	state, err := p.Wait()
	elapsed := time.Since(start)
	w.Close()
	if err != nil {
		return 0, nil, err
	}
	if !state.Success() {
		<-read
		return 0, nil, fmt.Errorf("%s\n%s", state, said.String())
	}
	return elapsed, state.SysUsage().(*syscall.Rusage), nil
}
