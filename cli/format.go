package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"text/template"
	"unicode/utf8"
)

// field is one thing a list can show: its name in templates and JSON, its
// column header, and how to get it from a row. The getters are methods of the
// row, so that {{.Name}} in a template finds the same.
type field[R any] struct {
	name, header string
	get          func(R) string
}

// table prints rows the way docker's lists do.
type table[R any] struct {
	fields []field[R]
	show   []string // the columns without --format
	id     func(R) string
}

// print writes rows as --format and -q ask: "" and "table" are columns under
// headers, "json" is one object a line, "table TEMPLATE" is columns made by a
// template, and anything else is a template executed once per row.
func (t *table[R]) print(w io.Writer, rows []R, format string, quiet bool) error {
	text, isTable := strings.CutPrefix(format, "table")
	text = strings.TrimSpace(text)
	switch {
	case quiet && (format == "" || isTable):
		var b strings.Builder
		for _, r := range rows {
			b.WriteString(t.id(r) + "\n")
		}
		_, err := io.WriteString(w, b.String())
		return err
	case format == "" || format == "table":
		return t.printColumns(w, rows)
	case format == "json":
		return t.printJSON(w, rows)
	case isTable:
		return t.printTemplate(w, rows, text, true)
	default:
		return t.printTemplate(w, rows, format, false)
	}
}

func (t *table[R]) printColumns(w io.Writer, rows []R) error {
	lines := make([][]string, len(rows)+1)
	for _, name := range t.show {
		f := t.field(name)
		lines[0] = append(lines[0], f.header)
		for i, r := range rows {
			lines[i+1] = append(lines[i+1], f.get(r))
		}
	}
	return writeAligned(w, lines)
}

func (t *table[R]) printJSON(w io.Writer, rows []R) error {
	var b bytes.Buffer
	for _, r := range rows {
		line, err := t.object(r)
		if err != nil {
			return err
		}
		b.Write(line)
		b.WriteByte('\n')
	}
	_, err := w.Write(b.Bytes())
	return err
}

// object is a row as JSON, keys sorted.
func (t *table[R]) object(r R) ([]byte, error) {
	all := make(map[string]string, len(t.fields))
	for _, f := range t.fields {
		all[f.name] = f.get(r)
	}
	return marshal(all, "")
}

func (t *table[R]) field(name string) *field[R] {
	for i := range t.fields {
		if t.fields[i].name == name {
			return &t.fields[i]
		}
	}
	panic("cli: no field " + name)
}

func (t *table[R]) names() []string {
	var all []string
	for _, f := range t.fields {
		all = append(all, f.name)
	}
	return all
}

// printTemplate executes text once per row. As docker does, \t and \n in it
// mean a tab and a line; in a table, tabs separate columns.
func (t *table[R]) printTemplate(w io.Writer, rows []R, text string, aligned bool) error {
	text = unescape(text)
	tmpl, err := parseTemplate(text)
	if err != nil {
		return err
	}
	tmpl.Funcs(template.FuncMap{"json": func(v any) (string, error) {
		if r, ok := v.(R); ok { // {{json .}} is the row's fields
			b, err := t.object(r)
			return string(b), err
		}
		return jsonText(v)
	}})
	var lines [][]string
	var out bytes.Buffer
	if aligned {
		header, err := t.header(text)
		if err != nil {
			return err
		}
		lines = append(lines, strings.Split(header, "\t"))
	}
	for _, r := range rows {
		var b bytes.Buffer
		if err := tmpl.Execute(&b, r); err != nil {
			return templateError(err, t.names())
		}
		if aligned {
			for line := range strings.SplitSeq(b.String(), "\n") {
				lines = append(lines, strings.Split(line, "\t"))
			}
			continue
		}
		out.Write(b.Bytes())
		out.WriteByte('\n')
	}
	if aligned {
		return writeAligned(w, lines)
	}
	_, err = w.Write(out.Bytes())
	return err
}

// header executes the template on the headers, with functions that leave
// them as they are.
func (t *table[R]) header(text string) (string, error) {
	same := func(v any, _ ...any) any { return v }
	second := func(_ any, v any) any { return v }
	tmpl, err := template.New("").Funcs(template.FuncMap{
		"json": same, "title": same, "lower": same, "upper": same,
		"split": same, "join": same, "truncate": same, "println": same, "pad": same,
		labelFunc: second,
	}).Parse(labelCalls(text))
	if err != nil {
		return "", plainTemplateError(err)
	}
	headers := make(map[string]string, len(t.fields))
	for _, f := range t.fields {
		headers[f.name] = f.header
	}
	var b strings.Builder
	if err := tmpl.Execute(&b, headers); err != nil {
		return "", templateError(err, t.names())
	}
	return b.String(), nil
}

// labelFunc stands in for the method .Label when headers are made, since a
// map has no methods: {{.Label "x"}} becomes {{label_ . "x"}}, header x.
const labelFunc = "label_"

func labelCalls(text string) string {
	return strings.ReplaceAll(text, ".Label ", labelFunc+" . ")
}

// writeAligned pads every column but the last to its widest cell and three
// blanks, docker's gap.
func writeAligned(w io.Writer, lines [][]string) error {
	var widths []int
	for _, cells := range lines {
		for i, cell := range cells {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for _, cells := range lines {
		for i, cell := range cells {
			b.WriteString(cell)
			if i < len(cells)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]+3-utf8.RuneCountInString(cell)))
			}
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// parseTemplate knows docker's functions beside Go's own.
func parseTemplate(text string) (*template.Template, error) {
	t, err := template.New("").Funcs(template.FuncMap{
		"json":     jsonText,
		"split":    strings.Split,
		"join":     join,
		"title":    title,
		"lower":    strings.ToLower,
		"upper":    strings.ToUpper,
		"pad":      pad,
		"truncate": truncate,
	}).Parse(text)
	if err != nil {
		return nil, plainTemplateError(err)
	}
	return t, nil
}

// unescape turns \t and \n, typed as two characters, into what they mean.
func unescape(s string) string {
	return strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(s)
}

func jsonText(v any) (string, error) {
	b, err := marshal(v, "")
	return string(b), err
}

// marshal is JSON without HTML escapes and without a line end.
func marshal(v any, indent string) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	err := enc.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// join takes any list: what comes from JSON is a []any.
func join(list any, sep string) (string, error) {
	v := reflect.ValueOf(list)
	if v.Kind() != reflect.Slice && v.Kind() != reflect.Array {
		return "", fmt.Errorf("join wants a list, not %T", list)
	}
	parts := make([]string, v.Len())
	for i := range parts {
		parts[i] = fmt.Sprint(v.Index(i).Interface())
	}
	return strings.Join(parts, sep), nil
}

func title(s string) string {
	words := strings.Fields(s)
	for i, w := range words {
		_, n := utf8.DecodeRuneInString(w)
		words[i] = strings.ToUpper(w[:n]) + w[n:]
	}
	return strings.Join(words, " ")
}

func pad(s string, prefix, suffix int) string {
	if s == "" {
		return s
	}
	return strings.Repeat(" ", max(0, prefix)) + s + strings.Repeat(" ", max(0, suffix))
}

func truncate(s string, n int) string {
	if runes := []rune(s); n >= 0 && len(runes) > n {
		return string(runes[:n])
	}
	return s
}

// plainTemplateError takes the template package's own name and position
// prefix away.
func plainTemplateError(err error) error {
	return errors.New("template parsing error: " + strings.TrimPrefix(err.Error(), "template: "))
}

// templateError says which field there is not, and which there are.
func templateError(err error, known []string) error {
	text := err.Error()
	for _, mark := range []string{"can't evaluate field ", "map has no entry for key \""} {
		_, rest, ok := strings.Cut(text, mark)
		if !ok {
			continue
		}
		name := strings.FieldsFunc(rest, func(r rune) bool { return r == ' ' || r == '"' })[0]
		hint := didYouMean(".", name, known)
		if hint == "" && len(known) > 0 {
			hint = "; there are ." + strings.Join(known, " .")
		}
		return fmt.Errorf("--format: no field .%s here%s", name, hint)
	}
	if i := strings.Index(text, "executing "); i >= 0 {
		text = text[i:]
	}
	return errors.New("--format: " + text)
}
