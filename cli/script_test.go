package cli

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"moss/container"
	"moss/internal/kerneltest"
	"moss/internal/testimage"
	"moss/internal/testregistry"
	"moss/oci"
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
			registry := testregistry.Start()
			env.Defer(registry.Close)
			push(registry)
			env.Setenv("REGISTRY", registry.Host)
			return nil
		},
		Condition: func(name string) (bool, error) {
			switch name {
			case "busybox":
				return busybox() != "", nil
			case "static": // this test, and so moss, was built without cgo
				return isStatic("/proc/self/exe"), nil
			}
			return kerneltest.Condition(name)
		},
	})
}

// push fills a script's registry: two tags of an image without a program, and,
// where this machine has a static busybox, one with.
func push(r *testregistry.Registry) {
	base := testregistry.Files(map[string]string{"etc/motd": "small\n"})
	config := oci.Image{Config: oci.Config{Env: []string{"PATH=/bin", "FROM=image"}, Cmd: []string{"sh"}, Labels: map[string]string{"maker": "me"}}}
	r.PushImage("small", "1", config, base)
	r.PushImage("again", "1", config, base) // the same image under another name
	r.PushImage("small", "2", config, base, testregistry.Files(map[string]string{"etc/issue": "two\n"}))
	if body := busybox(); body != "" {
		b := testimage.NewBuilder().Dir("bin", 0o755).File("bin/busybox", 0o755, body)
		for name := range strings.FieldsSeq("sh cat echo env id ls mount hostname pwd sleep touch true false") {
			b.Symlink("bin/"+name, "busybox")
		}
		r.PushImage("box", "1", config, base, testregistry.Plain(b.Tar()))
	}
}

// busybox is the program's bytes, "" when there is none or it needs libraries.
var busybox = sync.OnceValue(func() string {
	path, err := exec.LookPath("busybox")
	if err != nil || !isStatic(path) {
		return ""
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(b)
})

func isStatic(path string) bool {
	f, err := elf.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	libraries, err := f.ImportedLibraries()
	return err == nil && len(libraries) == 0
}
