// Package kerneltest is for tests that need a real kernel to agree: it asks
// whether it does, says why not, and keeps what a test mounts away from the
// machine.
//
// A condition is a question asked of the kernel by doing the thing once, never
// of a version string or of uid == 0. Where the answer is no the test skips
// and says what was missing; in a lane that promised the condition, by naming
// it in MOSS_TEST_MUST=userns,overlay, it fails instead, so that a lane cannot
// become green by skipping.
//
//	func TestMountKernel(t *testing.T) {
//		kerneltest.Require(t, "overlay")
//		if !kerneltest.Inside(t) {
//			return
//		}
//		… mount(2) …
//	}
//
// It imports nothing of moss, so every package can use it.
package kerneltest

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
)

// mustEnv names the conditions a lane has promised, separated by commas.
const mustEnv = "MOSS_TEST_MUST"

// Require skips the test unless the kernel grants all the conditions, or fails
// it when MOSS_TEST_MUST names the one that is missing.
func Require(t testing.TB, conditions ...string) {
	t.Helper()
	for _, name := range conditions {
		reason, err := ask(name)
		if err != nil {
			t.Fatal(err)
		}
		if reason != nil {
			t.Skipf("needs %s: %v", name, reason)
		}
	}
}

// Condition answers for testscript: it is Params.Condition, so that a script
// can say [!userns] skip 'no user namespaces here'. Unknown names and missing
// promises are errors.
func Condition(name string) (bool, error) {
	reason, err := ask(name)
	return err == nil && reason == nil, err
}

// Names lists the conditions.
func Names() []string {
	return slices.Sorted(maps.Keys(probes()))
}

var (
	askedMu sync.Mutex
	asked   = map[string]error{}
)

// ask returns why the condition does not hold, nil when it does. err is set
// when the name is unknown or MOSS_TEST_MUST names it and it does not hold.
func ask(name string) (reason, err error) {
	probe, ok := probes()[name]
	if !ok {
		return nil, fmt.Errorf("kerneltest: unknown condition %q; there are %s", name, strings.Join(Names(), ", "))
	}
	askedMu.Lock()
	defer askedMu.Unlock()
	reason, done := asked[name]
	if !done {
		reason = probe()
		asked[name] = reason
	}
	if reason != nil && slices.Contains(strings.Split(os.Getenv(mustEnv), ","), name) {
		return nil, fmt.Errorf("%s names %s, but: %w", mustEnv, name, reason)
	}
	return reason, nil
}
