package checks

import (
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "moss"

// beside is the layer of packages that are not part of the binary: test
// helpers, generators, what the scripts build for themselves.
const beside = -1

// layers reads the map of docs/ARCHITECTURE.md.
func layers(t *testing.T, tr *tree) map[string]int {
	t.Helper()
	of := map[string]int{}
	for _, row := range tr.rows(t, "docs/ARCHITECTURE.md", "The map") {
		layer, err := strconv.Atoi(row[0])
		if row[0] == "beside" {
			layer, err = beside, nil
		}
		if err != nil {
			t.Errorf("docs/ARCHITECTURE.md: layer %q is neither a number nor \"beside\"", row[0])
		}
		for _, name := range quoted(row[1]) {
			dir := strings.TrimSuffix(name, "/")
			if name == "main.go" {
				dir = ""
			}
			of[dir] = layer
		}
	}
	return of
}

// TestImportsPointDown compares every import between moss's own packages with
// the map. Tests may import what they like: there a layer may meet what will
// use it.
func TestImportsPointDown(t *testing.T) {
	tr := read(t)
	layer := layers(t, tr)
	there := map[string]bool{}
	for _, f := range tr.code {
		from, onMap := layer[f.dir]
		if !onMap {
			if !there[f.dir] {
				t.Errorf("package %q (%s) is not on the map in docs/ARCHITECTURE.md", f.dir, f.name)
			}
			there[f.dir] = true
			continue
		}
		there[f.dir] = true
		for _, path := range f.imports() {
			dir, own := strings.CutPrefix(path, module+"/")
			if !own || dir == f.dir { // the package under test, from its _test package
				continue
			}
			to, known := layer[dir]
			switch {
			case !known: // reported above
			case from == beside, f.test:
			case to == beside:
				t.Errorf("%s imports %s, which is for tests and tools", f.name, dir)
			case to >= from:
				t.Errorf("%s (layer %d) imports %s (layer %d): imports must point down", f.name, from, dir, to)
			}
		}
	}
	for dir := range layer {
		if !there[dir] {
			t.Errorf("docs/ARCHITECTURE.md has %q on its map, and there is no such package", dir)
		}
	}
}

// doors reads which modules may be imported, and where, from
// docs/DEPENDENCIES.md.
func doors(t *testing.T, tr *tree, heading string) map[string][]string {
	t.Helper()
	of := map[string][]string{}
	for _, row := range tr.rows(t, "docs/DEPENDENCIES.md", heading) {
		names := quoted(row[0])
		if len(names) != 1 || len(row) < 2 {
			t.Errorf("docs/DEPENDENCIES.md: row %q must begin with one module in backquotes", row)
			continue
		}
		var dirs []string
		for _, d := range quoted(row[1]) {
			dirs = append(dirs, strings.TrimSuffix(d, "/"))
		}
		of[names[0]] = dirs
	}
	return of
}

// owner returns the entry of table that path belongs to.
func owner(table map[string][]string, path string) (string, bool) {
	for name := range table {
		if path == name || strings.HasPrefix(path, name+"/") {
			return name, true
		}
	}
	return "", false
}

// TestDoors holds every import from outside against docs/DEPENDENCIES.md: each
// module, and each part of the standard library that is listed there, comes in
// through its own packages. Rows that nothing uses fail too.
func TestDoors(t *testing.T) {
	tr := read(t)
	layer := layers(t, tr)
	linked, forTests := doors(t, tr, "In the binary"), doors(t, tr, "For tests and tools")
	standard := doors(t, tr, "Of the standard library")
	used := map[string]bool{}
	for _, f := range tr.code {
		tool := f.test || layer[f.dir] == beside
		for _, path := range f.imports() {
			first, _, _ := strings.Cut(path, "/")
			if first == module {
				continue
			}
			if name, ok := owner(standard, path); ok {
				used[name] = true
				if !tool && !slices.Contains(standard[name], f.dir) {
					t.Errorf("%s imports %s, whose door is %v", f.name, path, standard[name])
				}
				continue
			}
			if !strings.Contains(first, ".") { // the rest of the standard library
				continue
			}
			if name, ok := owner(linked, path); ok {
				used[name] = used[name] || !tool
				if !tool && linked[name] != nil && !slices.Contains(linked[name], f.dir) {
					t.Errorf("%s imports %s, whose door is %v", f.name, path, linked[name])
				}
			} else if name, ok := owner(forTests, path); ok {
				used[name] = true
				if !tool {
					t.Errorf("%s imports %s, which is for tests and tools", f.name, path)
				}
			} else {
				t.Errorf("%s imports %s, which docs/DEPENDENCIES.md does not list", f.name, path)
			}
		}
	}
	for _, table := range []map[string][]string{linked, forTests, standard} {
		for name := range table {
			if !used[name] {
				t.Errorf("docs/DEPENDENCIES.md lists %s, which nothing imports", name)
			}
		}
	}
}

// TestModulesAreListed holds go.mod against docs/DEPENDENCIES.md.
func TestModulesAreListed(t *testing.T) {
	tr := read(t)
	page := tr.text(t, "docs/DEPENDENCIES.md")
	inRequire := false
	for line := range strings.Lines(tr.text(t, "go.mod")) {
		f := strings.Fields(line)
		switch {
		case len(f) == 2 && f[0] == "require" && f[1] == "(":
			inRequire = true
			continue
		case len(f) == 1 && f[0] == ")":
			inRequire = false
		case len(f) > 2 && f[0] == "require":
			f = f[1:]
		case !inRequire:
			continue
		}
		if len(f) >= 2 && !strings.Contains(page, "`"+f[0]+"`") {
			t.Errorf("go.mod requires %s, which docs/DEPENDENCIES.md does not name", f[0])
		}
	}
}
