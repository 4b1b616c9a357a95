package cli

import (
	"strings"
	"testing"
	"time"
)

func TestHumanDuration(t *testing.T) {
	const day = 24 * time.Hour
	for d, want := range map[time.Duration]string{
		300 * time.Millisecond: "Less than a second",
		time.Second:            "1 second",
		59 * time.Second:       "59 seconds",
		60 * time.Second:       "About a minute",
		119 * time.Second:      "About a minute",
		2 * time.Minute:        "2 minutes",
		59 * time.Minute:       "59 minutes",
		60 * time.Minute:       "About an hour",
		90 * time.Minute:       "2 hours",
		47 * time.Hour:         "47 hours",
		2 * day:                "2 days",
		13 * day:               "13 days",
		14 * day:               "2 weeks",
		59 * day:               "8 weeks",
		60 * day:               "2 months",
		729 * day:              "24 months",
		730 * day:              "2 years",
	} {
		if got := humanDuration(d); got != want {
			t.Errorf("humanDuration(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestHumanSize(t *testing.T) {
	for _, row := range []struct {
		n      int64
		digits int
		want   string
	}{
		{0, 3, "0B"}, {999, 3, "999B"}, {1000, 3, "1kB"}, {1024, 4, "1.024kB"}, {123456789, 3, "123MB"},
		{117_000_123, 4, "117MB"}, {1_500_000_000, 3, "1.5GB"}, {1 << 62, 3, "4.61EB"},
	} {
		if got := humanSize(row.n, row.digits); got != row.want {
			t.Errorf("humanSize(%d, %d) = %q, want %q", row.n, row.digits, got, row.want)
		}
	}
}

func TestEllipsis(t *testing.T) {
	for in, want := range map[string]string{"": "", "abcde": "abcde", "abcdef": "abcd…", "äöüäöü": "äöüä…"} {
		if got := ellipsis(in, 5); got != want {
			t.Errorf("ellipsis(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestDidYouMean(t *testing.T) {
	known := []string{"run", "pull", "images", "inspect", "--volume", "--entrypoint"}
	for typed, want := range map[string]string{
		"rnu": "run", "rum": "run", "image": "images", "inpsect": "inspect", "--volum": "--volume", "--entry": "--entrypoint",
		"frobnicate": "", "x": "", "--frob": "",
	} {
		if got := closest(typed, known); got != want {
			t.Errorf("closest(%q) = %q, want %q", typed, got, want)
		}
	}
}

type fruit struct{ name, color string }

func (f fruit) Name() string          { return f.name }
func (f fruit) Color() string         { return f.color }
func (f fruit) Label(s string) string { return f.name + "/" + s }

func fruits() *table[fruit] {
	return &table[fruit]{
		fields: []field[fruit]{{"Color", "COLOR", fruit.Color}, {"Name", "FRUIT NAME", fruit.Name}},
		show:   []string{"Name", "Color"},
		id:     fruit.Name,
	}
}

func TestTable(t *testing.T) {
	rows := []fruit{{"fig", "purple"}, {"mirabelle", "yellow"}}
	for _, row := range []struct {
		format string
		quiet  bool
		want   string
	}{
		{"", false, "FRUIT NAME   COLOR\nfig          purple\nmirabelle    yellow\n"},
		{"table", false, "FRUIT NAME   COLOR\nfig          purple\nmirabelle    yellow\n"},
		{"", true, "fig\nmirabelle\n"},
		{"table", true, "fig\nmirabelle\n"},
		{"json", false, `{"Color":"purple","Name":"fig"}` + "\n" + `{"Color":"yellow","Name":"mirabelle"}` + "\n"},
		{"{{json .}}", false, `{"Color":"purple","Name":"fig"}` + "\n" + `{"Color":"yellow","Name":"mirabelle"}` + "\n"},
		{"{{json .Name}}", false, "\"fig\"\n\"mirabelle\"\n"},
		{`{{.Name}}\t{{upper .Color}}`, false, "fig\tPURPLE\nmirabelle\tYELLOW\n"},
		{"{{.Name}}", true, "fig\nmirabelle\n"},
		{`table {{.Color}}\t{{title .Name}}`, false, "COLOR    FRUIT NAME\npurple   Fig\nyellow   Mirabelle\n"},
		{`table {{.Label "a"}}\t{{pad .Name 1 2}}`, false, "a             FRUIT NAME\nfig/a          fig  \nmirabelle/a    mirabelle  \n"},
		{`{{join (split .Name "i") "I"}} {{truncate .Color 3}} {{lower "X"}}`, false, "fIg pur x\nmIrabelle yel x\n"},
	} {
		var b strings.Builder
		if err := fruits().print(&b, rows, row.format, row.quiet); err != nil {
			t.Errorf("%q: %v", row.format, err)
		} else if b.String() != row.want {
			t.Errorf("%q:\n got %q\nwant %q", row.format, b.String(), row.want)
		}
	}
	for format, want := range map[string]string{
		"{{.Nmae}}":             "--format: no field .Nmae here; did you mean '.Name'?",
		"{{.Weight}}":           "--format: no field .Weight here; there are .Color .Name",
		"{{.Name":               "template parsing error",
		"{{frob .Name}}":        `function "frob" not defined`,
		"table {{.Name}}{{":     "template parsing error",
		`{{join .Name ","}}`:    "join wants a list, not string",
		`table {{.Name.First}}`: "--format: ",
	} {
		err := fruits().print(new(strings.Builder), rows, format, false)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want an error with %q", format, err, want)
		}
	}
}

func TestTableEmpty(t *testing.T) {
	for format, want := range map[string]string{"": "FRUIT NAME   COLOR\n", "json": "", "{{.Name}}": "", "table {{.Name}}": "FRUIT NAME\n"} {
		var b strings.Builder
		if err := fruits().print(&b, nil, format, false); err != nil || b.String() != want {
			t.Errorf("%q: got %q, %v, want %q", format, b.String(), err, want)
		}
	}
}
