package kerneltest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestEveryConditionAnswers(t *testing.T) {
	t.Setenv(mustEnv, "")
	for _, name := range Names() {
		granted, err := Condition(name)
		if err != nil {
			t.Errorf("Condition(%q): %v", name, err)
		}
		if granted {
			t.Logf("%s: yes", name)
		} else {
			reason, _ := ask(name)
			t.Logf("%s: no, %v", name, reason)
		}
	}
}

func TestConditionUnknown(t *testing.T) {
	if _, err := Condition("magic"); err == nil || !strings.Contains(err.Error(), "userns") {
		t.Errorf("Condition(magic) = %v, want an error that names the known ones", err)
	}
}

func TestMustTurnsSkipIntoFailure(t *testing.T) {
	askedMu.Lock()
	before, had := asked["chown"]
	asked["chown"] = syscall.EPERM
	askedMu.Unlock()
	t.Cleanup(func() {
		askedMu.Lock()
		defer askedMu.Unlock()
		asked["chown"] = before
		if !had {
			delete(asked, "chown")
		}
	})

	t.Setenv(mustEnv, "")
	if granted, err := Condition("chown"); granted || err != nil {
		t.Errorf("without a promise: %v, %v; want false and no error", granted, err)
	}
	t.Setenv(mustEnv, "userns,chown")
	if _, err := Condition("chown"); err == nil {
		t.Error("with a promise: no error")
	}
}

func TestInside(t *testing.T) {
	outside, _ := os.Readlink("/proc/self/ns/mnt")
	if !Inside(t) {
		if now, _ := os.Readlink("/proc/self/ns/mnt"); now != outside {
			t.Error("the first run changed its mount namespace")
		}
		return
	}
	if os.Geteuid() != 0 {
		t.Errorf("euid %d inside, want 0", os.Geteuid())
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, 0) })
	if err := os.WriteFile(filepath.Join(dir, "x"), nil, 0o644); err != nil {
		t.Error(err)
	}
}

func TestInsideSubtest(t *testing.T) {
	t.Run("a (b) c", func(t *testing.T) {
		if !Inside(t, syscall.CLONE_NEWPID) {
			return
		}
		if os.Getpid() != 1 {
			t.Errorf("pid %d, want 1", os.Getpid())
		}
	})
}

// The two below are subjects of TestInsideReports, which asks for them by
// setting the variable; otherwise they pass without doing anything.
const subjectEnv = "MOSS_KERNELTEST_SUBJECT"

func TestSubjectFails(t *testing.T) {
	if os.Getenv(subjectEnv) != "" && Inside(t) {
		t.Error("on purpose")
	}
}

func TestSubjectSkips(t *testing.T) {
	if os.Getenv(subjectEnv) != "" && Inside(t) {
		t.Skip("on purpose")
	}
}

func TestInsideReports(t *testing.T) {
	Require(t, "userns")
	for name, want := range map[string]string{
		"TestSubjectFails": "--- FAIL: TestSubjectFails",
		"TestSubjectSkips": "--- SKIP: TestSubjectSkips",
	} {
		cmd := exec.Command("/proc/self/exe", "-test.run=^"+name+"$", "-test.v")
		cmd.Env = append(os.Environ(), subjectEnv+"=1")
		out, _ := cmd.CombinedOutput()
		// The inner run prints the same line, but Inside keeps verdicts to itself.
		if got := string(out); strings.Count(got, want) != 1 || !strings.Contains(got, "on purpose") {
			t.Errorf("%s printed:\n%s\nwant %q once, and the reason", name, got, want)
		}
	}
}
