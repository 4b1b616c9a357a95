package checks

import (
	"go/ast"
	"go/token"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// symbols are the package-level names of each file: "Options", and for methods
// "Store.AddLayer".
func symbols(tr *tree) map[string][]string {
	all := map[string][]string{}
	for _, f := range tr.code {
		add := func(name string) { all[f.name] = append(all[f.name], name) }
		for _, d := range f.syntax.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				name := d.Name.Name
				if d.Recv != nil {
					recv := d.Recv.List[0].Type
					if star, ok := recv.(*ast.StarExpr); ok {
						recv = star.X
					}
					if id, ok := recv.(*ast.Ident); ok {
						name = id.Name + "." + name
					}
				}
				add(name)
			case *ast.GenDecl:
				for _, s := range d.Specs {
					switch s := s.(type) {
					case *ast.TypeSpec:
						add(s.Name.Name)
					case *ast.ValueSpec:
						for _, n := range s.Names {
							add(n.Name)
						}
					}
				}
			}
		}
	}
	return all
}

// resolve says what is wrong with a citation such as "container/run.go#Engine.Run"
// or "" when nothing is. A method may be cited without its type.
func resolve(tr *tree, known map[string][]string, citation string) string {
	file, symbol, _ := strings.Cut(citation, "#")
	if !tr.has(file) {
		return "there is no such file"
	}
	if symbol == "" || path.Ext(file) != ".go" {
		return ""
	}
	if slices.ContainsFunc(known[file], func(s string) bool { return s == symbol || strings.HasSuffix(s, "."+symbol) }) {
		return ""
	}
	return "that file has no such symbol"
}

// pages are the repository's Markdown files.
func (tr *tree) pages() []string {
	return slices.DeleteFunc(slices.Clone(tr.files), func(name string) bool { return path.Ext(name) != ".md" })
}

// TestCitations resolves what pages and programs cite of the source:
// `overlay/options.go#Options` in Markdown, "overlay/options.go#Options" and
// "docs/ids.md" in strings of the program, docs/ARCHITECTURE.md in comments.
func TestCitations(t *testing.T) {
	tr := read(t)
	known := symbols(tr)
	inPage := regexp.MustCompile("`([\\w./-]+\\.(?:go|s)(?:#[\\w.]+)?)`")
	inString := regexp.MustCompile(`^[\w-]+(?:/[\w-]+)*\.(?:go|s)(?:#[\w.]+)?$`)
	page := regexp.MustCompile(`\bdocs/[\w/-]+\.md\b`)
	n := 0
	for _, name := range tr.pages() {
		for i, line := range numbered(tr.text(t, name)) {
			for _, m := range inPage.FindAllStringSubmatch(line, -1) {
				if !strings.Contains(m[1], "/") && !strings.Contains(m[1], "#") && m[1] != "main.go" {
					continue // a file of a package that the sentence names
				}
				n++
				if wrong := resolve(tr, known, m[1]); wrong != "" {
					t.Errorf("%s:%d cites %s: %s", name, i, m[1], wrong)
				}
			}
		}
	}
	for _, f := range tr.code {
		if f.dir == "internal/checks" || f.test {
			continue
		}
		ast.Inspect(f.syntax, func(node ast.Node) bool {
			lit, ok := node.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				return true
			}
			s, err := strconv.Unquote(lit.Value)
			if err != nil || !strings.Contains(s, "/") || !inString.MatchString(s) {
				return true
			}
			n++
			if wrong := resolve(tr, known, s); wrong != "" {
				t.Errorf("%s:%d cites %s: %s", f.name, f.line(lit.Pos()), s, wrong)
			}
			return true
		})
		for i, line := range numbered(tr.text(t, f.name)) {
			for _, m := range page.FindAllString(line, -1) {
				n++
				if !tr.has(m) {
					t.Errorf("%s:%d cites %s, which does not exist", f.name, i, m)
				}
			}
		}
	}
	if n < 40 {
		t.Errorf("only %d citations were found; the patterns of this test no longer fit", n)
	}
}

// TestLinks resolves the relative links of every page, with their anchors.
func TestLinks(t *testing.T) {
	tr := read(t)
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	for _, name := range tr.pages() {
		for i, line := range numbered(tr.text(t, name)) {
			for _, m := range link.FindAllStringSubmatch(line, -1) {
				if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
					continue
				}
				target, anchor, _ := strings.Cut(m[1], "#")
				file := name
				if target != "" {
					file = path.Join(path.Dir(name), target)
				}
				if !tr.has(file) {
					t.Errorf("%s:%d links to %s, which does not exist", name, i, m[1])
				} else if anchor != "" && path.Ext(file) == ".md" && !slices.Contains(anchors(tr.text(t, file)), anchor) {
					t.Errorf("%s:%d links to %s, which has no such heading", name, i, m[1])
				}
			}
		}
	}
}

// numbered are the lines of a text outside of fenced blocks, by number from 1;
// in Go files there are none of those.
func numbered(text string) map[int]string {
	all := map[int]string{}
	fenced, i := false, 0
	for line := range strings.Lines(text) {
		i++
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			fenced = !fenced
		} else if !fenced {
			all[i] = line
		}
	}
	return all
}

// anchors are what the headings of a page are called in links.
func anchors(text string) []string {
	var all []string
	for _, line := range numbered(text) {
		if !strings.HasPrefix(line, "#") {
			continue
		}
		var b strings.Builder
		for _, c := range strings.ToLower(strings.TrimSpace(strings.TrimLeft(line, "#"))) {
			switch {
			case c == ' ':
				b.WriteByte('-')
			case c == '-' || c == '_' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c > 127:
				b.WriteRune(c)
			}
		}
		all = append(all, b.String())
	}
	return all
}
