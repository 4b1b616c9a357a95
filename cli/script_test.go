package cli

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"moss/container"
)

// TestMain lets the test binary be moss: in scripts, and where moss executes
// itself again.
func TestMain(m *testing.M) {
	if handled, status := container.ReexecMain(os.Args); handled {
		os.Exit(status)
	}
	testscript.Main(m, map[string]func(){
		"moss": func() { os.Exit(Main(os.Args, os.Stdin, os.Stdout, os.Stderr)) },
	})
}

// TestScripts runs testdata/script: the command line as a person meets it.
// Each script has a store of its own.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("XDG_DATA_HOME", filepath.Join(env.WorkDir, ".data"))
			env.Setenv("XDG_RUNTIME_DIR", "")
			env.Setenv("MOSS_EXPLAIN", "")
			return nil
		},
	})
}
