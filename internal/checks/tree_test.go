package checks

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// goFile is one Go file of the repository.
type goFile struct {
	name   string // relative to the root: "overlay/options.go"
	dir    string // "overlay"; "" for the root
	test   bool
	syntax *ast.File
	fset   *token.FileSet
}

// imports are the paths that f imports.
func (f *goFile) imports() []string {
	var all []string
	for _, i := range f.syntax.Imports {
		all = append(all, strings.Trim(i.Path.Value, `"`))
	}
	return all
}

func (f *goFile) line(p token.Pos) int { return f.fset.Position(p).Line }

// tree is the repository as it stands.
type tree struct {
	root  string
	files []string // all files, relative to root, sorted
	code  []*goFile
	err   error
}

// read reads the repository, once for all tests. Test binaries may run
// elsewhere than where they were built, so that it may be missing.
func read(t *testing.T) *tree {
	t.Helper()
	tr := load()
	if tr.err != nil {
		t.Fatal(tr.err)
	}
	if tr.root == "" {
		t.Skip("no source tree here: no go.mod above the working directory")
	}
	return tr
}

var load = sync.OnceValue(func() *tree {
	tr := new(tree)
	dir, err := os.Getwd()
	if err != nil {
		return &tree{err: err}
	}
	for ; tr.root == ""; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			tr.root = dir
		} else if dir == "/" {
			return tr
		}
	}
	if tr.files = tracked(tr.root); tr.files == nil {
		tr.files, tr.err = walk(tr.root)
	}
	slices.Sort(tr.files)
	fset := token.NewFileSet()
	for _, name := range tr.files {
		if tr.err != nil || path.Ext(name) != ".go" {
			continue
		}
		f := &goFile{name: name, dir: path.Dir(name), test: strings.HasSuffix(name, "_test.go"), fset: fset}
		if f.dir == "." {
			f.dir = ""
		}
		f.syntax, tr.err = parser.ParseFile(fset, filepath.Join(tr.root, name), nil, parser.ParseComments|parser.SkipObjectResolution)
		tr.code = append(tr.code, f)
	}
	return tr
})

// tracked asks git which files there are, those not ignored but not yet added
// too; nil when there is no git or no repository.
func tracked(root string) []string {
	if _, err := os.Stat(filepath.Join(root, ".git")); err != nil {
		return nil
	}
	out, err := exec.Command("git", "-c", "safe.directory="+root, "-C", root, "ls-files", "-z", "-co", "--exclude-standard").Output()
	if err != nil {
		return nil
	}
	var all []string
	for name := range strings.SplitSeq(string(out), "\x00") {
		if info, err := os.Lstat(filepath.Join(root, name)); name != "" && err == nil && info.Mode().IsRegular() {
			all = append(all, name)
		}
	}
	return all
}

func walk(root string) (all []string, err error) {
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, p)
		switch {
		case err != nil:
			return err
		case d.IsDir() && (name == ".git" || name == "dist"):
			return fs.SkipDir
		case d.Type().IsRegular() && name != "moss": // the binary
			all = append(all, name)
		}
		return nil
	})
	return all, err
}

// text is the content of one file.
func (tr *tree) text(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(tr.root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// has reports whether name is a file of the repository or a directory in it.
func (tr *tree) has(name string) bool {
	name = path.Clean(name)
	return name == "." || slices.ContainsFunc(tr.files, func(f string) bool { return f == name || strings.HasPrefix(f, name+"/") })
}

// rows are the cells of all table rows of a page that lie below the heading
// with this text, up to the next heading; the first two rows of each table, its
// head, are left out.
func (tr *tree) rows(t *testing.T, page, heading string) [][]string {
	t.Helper()
	var all [][]string
	inside, found := false, false
	inTable := 0
	for line := range strings.Lines(tr.text(t, page)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "#") {
			inside = strings.TrimSpace(strings.TrimLeft(line, "#")) == heading
			found = found || inside
		}
		if !inside || !strings.HasPrefix(line, "|") {
			inTable = 0
			continue
		}
		if inTable++; inTable <= 2 {
			continue
		}
		var cells []string
		for cell := range strings.SplitSeq(strings.Trim(line, "|"), "|") {
			cells = append(cells, strings.TrimSpace(cell))
		}
		all = append(all, cells)
	}
	if !found {
		t.Fatalf("%s has no heading %q, which this test reads", page, heading)
	}
	return all
}

// quoted are the words of a cell between backquotes.
func quoted(cell string) []string {
	var all []string
	for i, part := range strings.Split(cell, "`") {
		if i%2 == 1 {
			all = append(all, part)
		}
	}
	return all
}
