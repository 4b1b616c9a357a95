// Command results reads the events of a test binary (go tool test2json) from
// its input, prints what a person needs of them, and appends one line a test
// to a file, separated by tabs as scripts/lib.sh has it: pass, fail or skip,
// the lane, the name, and why it was skipped.
//
//	go tool test2json -p PACKAGE ./x.test -test.v=test2json | results LANE FILE
//
// Leaves count: a test with subtests only when it failed and none of them did.
// It exits non-zero when something failed.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
)

// event is a line of test2json (go doc test2json).
type event struct {
	Action  string
	Package string
	Test    string
	Output  string
}

// test is a test, or with an empty name what its package said on its own.
type test struct {
	pkg, name string
	action    string // "" until it ends
	output    []string
	children  int
	explained bool // a child failed, which says it better
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: results LANE FILE <EVENTS")
		os.Exit(2)
	}
	tests, err := read()
	failed := false
	if err == nil {
		failed, err = report(os.Args[1], os.Args[2], tests)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "results:", err)
	}
	if failed || err != nil {
		os.Exit(1)
	}
}

// read returns the tests in the order they started.
func read() ([]*test, error) {
	var order []*test
	find := func(pkg, name string) *test {
		for _, t := range slices.Backward(order) {
			if t.pkg == pkg && t.name == name {
				return t
			}
		}
		t := &test{pkg: pkg, name: name}
		order = append(order, t)
		return t
	}
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		var e event
		if err := json.Unmarshal(in.Bytes(), &e); err != nil {
			e = event{Action: "output", Output: in.Text() + "\n"} // not a test's: a crash of the runner
		}
		t := find(e.Package, e.Test)
		switch e.Action {
		case "output":
			t.output = append(t.output, e.Output)
		case "pass", "fail", "skip":
			t.action = e.Action
		}
	}
	for _, t := range order {
		for _, p := range order {
			if p.above(t) {
				p.children++
			}
		}
	}
	return order, in.Err()
}

// above reports whether t ran as a part of p. A name may hold slashes of its
// own, so the parent is not what stands before the last one.
func (p *test) above(t *test) bool {
	return p.pkg == t.pkg && p != t && (p.name == "" || strings.HasPrefix(t.name, p.name+"/"))
}

func report(lane, file string, tests []*test) (failed bool, err error) {
	out, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return false, err
	}
	for _, t := range slices.Backward(tests) { // children before who ran them
		name := strings.TrimPrefix(t.pkg, "moss/")
		if t.name != "" {
			name += "." + t.name
		}
		if t.action == "" && t.name != "" {
			t.action = "fail" // a crash or a time limit took it along
		}
		why := ""
		switch t.action {
		case "fail":
			failed = true
			for _, p := range tests {
				p.explained = p.explained || p.above(t)
			}
			if t.explained {
				continue
			}
			fmt.Printf("FAIL %s: %s\n%s", lane, name, indent(t.output))
		case "skip":
			if t.children > 0 || t.name == "" {
				continue
			}
			why = reason(t.output)
			fmt.Printf("skip %s: %s: %s\n", lane, name, why)
		case "pass":
			if t.children > 0 || t.name == "" {
				continue
			}
		default:
			continue
		}
		fmt.Fprintf(out, "%s\t%s\t%s\t%s\n", t.action, lane, name, why)
	}
	return failed, out.Close()
}

// indent shows the last lines of what a test said, without the runner's own.
func indent(output []string) string {
	var lines []string
	for line := range strings.Lines(strings.Join(output, "")) {
		if !strings.HasPrefix(strings.TrimSpace(line), "=== ") {
			lines = append(lines, "     "+strings.TrimRight(line, "\n")+"\n")
		}
	}
	return strings.Join(lines[max(len(lines)-60, 0):], "")
}

// reason is what t.Skip was given: "file_test.go:12: reason", twice over when
// the test ran inside namespaces (internal/kerneltest).
func reason(output []string) string {
	for _, line := range output {
		said := strings.TrimSpace(line)
		for strings.Contains(said, ".go:") && !strings.HasPrefix(said, "---") {
			_, position, _ := strings.Cut(said, ".go:")
			_, after, ok := strings.Cut(position, ": ")
			if !ok {
				break
			}
			said = strings.TrimSpace(after)
		}
		if said != strings.TrimSpace(line) {
			return said
		}
	}
	return "no reason given"
}
