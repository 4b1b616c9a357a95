package checks

import (
	"fmt"
	"go/ast"
	"go/token"
	"regexp"
	"strconv"
	"testing"
)

// TestStories checks the walks through the code that scripts/story prints: a
// comment "[run 3/9] …" in a function's body is step 3 of 9 of the story "run".
// All steps are there once, and those in one file are in order.
func TestStories(t *testing.T) {
	tr := read(t)
	tag := regexp.MustCompile(`^//\s*\[([a-z]+) (\d+)/(\d+)\] (\S.*)`)
	type story struct {
		last  int
		where map[int]string
	}
	stories := map[string]*story{}
	for _, f := range tr.code {
		if f.test {
			continue
		}
		previous := map[string]int{}
		for _, group := range f.syntax.Comments {
			for _, c := range group.List {
				m := tag.FindStringSubmatch(c.Text)
				if m == nil {
					continue
				}
				name, where := m[1], fmt.Sprintf("%s:%d", f.name, f.line(c.Pos()))
				n, _ := strconv.Atoi(m[2])
				last, _ := strconv.Atoi(m[3])
				if !inBody(f.syntax, c.Pos()) {
					t.Errorf("%s: [%s %d/%d] is not in a function's body, where it would stay out of the documentation", where, name, n, last)
				}
				s := stories[name]
				if s == nil {
					s = &story{last, map[int]string{}}
					stories[name] = s
				}
				if s.last != last {
					t.Errorf("%s: story %s has %d steps here and %d elsewhere", where, name, last, s.last)
				}
				if other := s.where[n]; other != "" {
					t.Errorf("%s: step %d of story %s is also at %s", where, n, name, other)
				}
				if n <= previous[name] {
					t.Errorf("%s: step %d of story %s stands below step %d", where, n, name, previous[name])
				}
				s.where[n], previous[name] = where, n
			}
		}
	}
	for _, name := range []string{"run", "pull"} {
		if stories[name] == nil {
			t.Errorf("no story %q is told any more", name)
		}
	}
	for name, s := range stories {
		for n := 1; n <= max(s.last, len(s.where)); n++ {
			if s.where[n] == "" {
				t.Errorf("story %s: step %d of %d is missing", name, n, s.last)
			}
		}
	}
}

func inBody(file *ast.File, p token.Pos) bool {
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Body != nil && f.Body.Pos() < p && p < f.Body.End() {
			return true
		}
	}
	return false
}
