package kerneltest

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// insideEnv marks the second run of a test, and says of which one.
const insideEnv = "MOSS_KERNELTEST_INSIDE"

// Inside reports whether the test already runs as root of a user and mount
// namespace of its own. When it does not, Inside runs the same test once more
// in such namespaces, reports that run's result as this one's, and returns
// false: the caller returns at once. Whatever the test mounts dies with the
// second process, even when the test is killed.
//
// More namespaces can be asked for, as CLONE_NEW* flags; with CLONE_NEWPID the
// second run is process 1. Unmount in t.Cleanup all the same, or t.TempDir
// cannot be removed.
func Inside(t *testing.T, flags ...uintptr) bool {
	t.Helper()
	if os.Getenv(insideEnv) == t.Name() {
		// What is mounted on the machine meanwhile must not appear in here.
		if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
			t.Fatalf("making the mounts private: %v", err)
		}
		return true
	}
	Require(t, "userns")

	var all uintptr = syscall.CLONE_NEWNS
	for _, f := range flags {
		all |= f
	}
	var path []string
	for part := range strings.SplitSeq(t.Name(), "/") {
		path = append(path, "^"+regexp.QuoteMeta(part)+"$")
	}
	args := []string{"-test.run=" + strings.Join(path, "/"), "-test.v", "-test.count=1"}
	if deadline, ok := t.Deadline(); ok {
		args = append(args, "-test.timeout="+time.Until(deadline).String())
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), insideEnv+"="+t.Name())
	cmd.SysProcAttr = inNamespaces(all)
	out, err := cmd.CombinedOutput()
	ran, skipped, text := verdict(t.Name(), string(out))
	switch {
	case err != nil:
		t.Fatalf("inside: %v\n%s", err, text)
	case !ran:
		t.Fatalf("inside: no test ran\n%s", text)
	case skipped:
		t.Skip(strings.TrimSpace(text))
	case text != "":
		t.Log(strings.TrimSpace(text))
	}
	return false
}

// verdict reads the output of go test -v: whether the test ran, whether it was
// skipped, and what it said.
func verdict(name, out string) (ran, skipped bool, said string) {
	var b strings.Builder
	for line := range strings.Lines(out) {
		trimmed := strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(trimmed, fmt.Sprintf("--- SKIP: %s (", name)):
			ran, skipped = true, true
		case strings.HasPrefix(trimmed, fmt.Sprintf("--- PASS: %s (", name)),
			strings.HasPrefix(trimmed, fmt.Sprintf("--- FAIL: %s (", name)):
			ran = true
		case strings.HasPrefix(line, "=== "), strings.HasPrefix(trimmed, "--- PASS: "),
			trimmed == "PASS", trimmed == "FAIL", trimmed == "":
		default:
			b.WriteString(line)
		}
	}
	return ran, skipped, b.String()
}
