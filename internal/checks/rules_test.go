package checks

import (
	"bufio"
	"go/ast"
	"go/token"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestNothingAtStart looks for work that every command would pay for before
// main: init functions and regular expressions compiled into package variables.
func TestNothingAtStart(t *testing.T) {
	tr := read(t)
	layer := layers(t, tr)
	for _, f := range tr.code {
		if f.test || layer[f.dir] == beside {
			continue
		}
		for _, d := range f.syntax.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Name.Name == "init" && d.Recv == nil {
					t.Errorf("%s:%d: an init function runs before every command", f.name, f.line(d.Pos()))
				}
			case *ast.GenDecl:
				if d.Tok != token.VAR {
					continue
				}
				ast.Inspect(d, func(n ast.Node) bool {
					if _, ok := n.(*ast.FuncLit); ok {
						return false // runs later
					}
					if call, ok := n.(*ast.CallExpr); ok {
						if sel, ok := call.Fun.(*ast.SelectorExpr); ok {
							if pkg, ok := sel.X.(*ast.Ident); ok && pkg.Name == "regexp" {
								t.Errorf("%s:%d: regexp.%s in a package variable runs before every command", f.name, f.line(call.Pos()), sel.Sel.Name)
							}
						}
					}
					return true
				})
			}
		}
	}
}

// TestNothingOfThisMachine looks for names that mean something on one machine
// only: the directories beside the source tree, and the hosts of its proxies.
func TestNothingOfThisMachine(t *testing.T) {
	tr := read(t)
	names := append(neighbours(tr.root), proxyHosts()...)
	for _, name := range tr.files {
		text := tr.text(t, name)
		for _, n := range names {
			if i := strings.Index(text, n); i >= 0 {
				t.Errorf("%s:%d names %s, which is of this machine", name, 1+strings.Count(text[:i], "\n"), n)
			}
		}
	}
}

// neighbours are the source tree and what lies beside it, as absolute paths,
// unless it lies in a directory that every machine has.
func neighbours(root string) []string {
	parent := filepath.Dir(root)
	if slices.Contains([]string{"/", "/tmp", "/var/tmp", "/opt", "/srv", "/home", "/usr/src"}, parent) {
		return []string{root}
	}
	entries, err := os.ReadDir(parent)
	if err != nil {
		return []string{root}
	}
	var all []string
	for _, e := range entries {
		all = append(all, filepath.Join(parent, e.Name()))
	}
	return all
}

// proxyHosts are the hosts that this machine fetches through, by the variables
// and files of go and of HTTP clients.
func proxyHosts() []string {
	values := []string{os.Getenv("GOPROXY"), os.Getenv("GONOSUMDB")}
	for _, v := range []string{"http_proxy", "https_proxy", "all_proxy", "no_proxy"} {
		values = append(values, os.Getenv(v), os.Getenv(strings.ToUpper(v)))
	}
	if dir, err := os.UserConfigDir(); err == nil {
		if f, err := os.Open(filepath.Join(dir, "go", "env")); err == nil {
			defer f.Close()
			for s := bufio.NewScanner(f); s.Scan(); {
				if v, ok := strings.CutPrefix(s.Text(), "GOPROXY="); ok {
					values = append(values, v)
				}
			}
		}
	}
	var hosts []string
	for _, v := range values {
		for word := range strings.FieldsFuncSeq(v, func(r rune) bool { return r == ',' || r == '|' }) {
			if u, err := url.Parse(word); err == nil && u.Host != "" && u.Hostname() != "proxy.golang.org" && u.Hostname() != "localhost" && !strings.HasPrefix(u.Host, "127.") {
				hosts = append(hosts, u.Hostname())
			}
		}
	}
	return hosts
}
