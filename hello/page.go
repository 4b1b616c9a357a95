package hello

import (
	"strings"
	"unicode/utf8"
)

// page is text in two columns, 80 wide: labels, and what they are about.
type page struct{ strings.Builder }

const (
	width  = 80
	column = 12 // where the text begins when there are labels
)

func (p *page) gap() { p.WriteByte('\n') }

// text writes s behind label, wrapped between words. Blanks at its beginning
// are kept and indent all its lines.
func (p *page) text(label, s string) {
	words := strings.TrimLeft(s, " ")
	indent := strings.Repeat(" ", column+len(s)-len(words))
	if p.Len() == 0 {
		indent = "" // the greeting has the whole width
	}
	line := label + strings.Repeat(" ", max(0, len(indent)-len(label)))
	empty := true
	for word := range strings.FieldsSeq(words) {
		if !empty && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			p.WriteString(line + "\n")
			line, empty = indent, true
		}
		if !empty {
			line += " "
		}
		line += word
		empty = false
	}
	p.WriteString(line + "\n")
}

// look says how to see the same, and where to read on.
func (p *page) look(command, read string) {
	const between = 34
	p.WriteString(strings.Repeat(" ", column) + "$ " + command + strings.Repeat(" ", max(2, between-len(command))) + read + "\n")
}
