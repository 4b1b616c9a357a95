package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"

	"github.com/spf13/pflag"

	"moss/container"
	"moss/fail"
	"moss/image"
)

const inspectFormat = `Format output using a custom template:
'json':             Print in JSON format
'TEMPLATE':         Print output using the given Go template`

func inspectVerb() *verb {
	return &verb{
		names: []string{"inspect"},
		args:  "[OPTIONS] NAME|ID [NAME|ID...]",
		short: "Return low-level information on containers and images",
		long: `A container's name wins over an image's. The JSON has docker's shape; fields in
templates go by their Go names ({{.ID}}) or by their names in the JSON ({{.Id}}).`,
		examples: `
# All there is to know
moss inspect web
# How it ended
moss inspect --format '{{.State.ExitCode}} {{.State.FinishedAt}}' web
# The image of that name, though a container has it too
moss inspect --type image debian
# A part of it as JSON
moss inspect -f '{{json .Config.Env}}' debian`,
		min: 1, max: -1,
		complete: (*command).anyCandidates,
		flags:    func(c *command, f *pflag.FlagSet) action { return inspectFlags(c, f, "") },
	}
}

func containerInspectVerb() *verb {
	return &verb{
		names: []string{"container inspect"},
		args:  "[OPTIONS] CONTAINER [CONTAINER...]",
		short: "Display detailed information on one or more containers",
		examples: `
# All there is to know
moss container inspect web
# Its mounts, one a line
moss container inspect -f '{{range .Mounts}}{{println .Source .Destination}}{{end}}' web`,
		min: 1, max: -1,
		complete: (*command).containerCandidates,
		flags:    func(c *command, f *pflag.FlagSet) action { return inspectFlags(c, f, "container") },
	}
}

func imageInspectVerb() *verb {
	return &verb{
		names: []string{"image inspect"},
		args:  "[OPTIONS] IMAGE [IMAGE...]",
		short: "Display detailed information on one or more images",
		examples: `
# All there is to know
moss image inspect debian
# What it is for
moss image inspect -f '{{.Os}}/{{.Architecture}}' debian`,
		min: 1, max: -1,
		complete: (*command).imageCandidates,
		flags:    func(c *command, f *pflag.FlagSet) action { return inspectFlags(c, f, "image") },
	}
}

type inspectOptions struct {
	*command
	kind   string // "container", "image" or "" for both
	format string
	size   bool
}

func inspectFlags(c *command, f *pflag.FlagSet, kind string) action {
	o := &inspectOptions{command: c, kind: kind}
	f.StringVarP(&o.format, "format", "f", "", inspectFormat)
	if kind != "image" {
		boolFlag(f, &o.size, "size", "s", "Display total file sizes if the type is container")
	}
	if kind == "" {
		f.Var(oneOf{&o.kind, "container image"}, "type", "Only inspect objects of the given type (container or image)")
	}
	return o.run
}

func (o *inspectOptions) run(names []string) error {
	e, err := o.open()
	if err != nil {
		return err
	}
	defer e.Close()
	objects := []any{}
	var failed []error
	for _, name := range names {
		object, err := o.find(e, name)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		objects = append(objects, object)
	}
	if err := o.print(objects); err != nil {
		failed = append(failed, err)
	}
	for i, err := range failed {
		if i < len(failed)-1 {
			fail.Print(o.err, err)
		}
	}
	if len(failed) > 0 {
		return failed[len(failed)-1]
	}
	return nil
}

// find looks for a container, then for an image.
func (o *inspectOptions) find(e *engine, name string) (any, error) {
	if o.kind != "image" {
		r, err := e.Find(name)
		if err == nil {
			view := inspectContainer(r, e.Store.Root())
			if o.size {
				size, err := e.size(r)
				if err != nil {
					return nil, err
				}
				view.SizeRw, view.SizeRootFs = &size.Written, &size.Whole
			}
			return view, nil
		}
		if o.kind == "container" || !errors.Is(err, container.ErrNotFound) {
			return nil, err
		}
	}
	img, _, err := e.image(name)
	if o.kind == "" && errors.Is(err, image.ErrNotFound) {
		return nil, &fail.Error{Op: "no such object: " + name, Try: "moss ps -a and moss images list what is here"}
	}
	if err != nil {
		return nil, err
	}
	return inspectImage(img, e.Store), nil
}

// print writes objects as --format asks: a JSON array, indented or not, or a
// template executed on each.
func (o *inspectOptions) print(objects []any) error {
	var out bytes.Buffer
	switch o.format {
	case "", "json":
		indent := "    "
		if o.format == "json" {
			indent = ""
		}
		b, err := marshal(objects, indent)
		if err != nil {
			return err
		}
		out.Write(append(b, '\n'))
	default:
		for _, object := range objects {
			if err := executeOn(&out, o.format, object); err != nil {
				return err
			}
			out.WriteByte('\n')
		}
	}
	_, err := o.out.Write(out.Bytes())
	return err
}

// executeOn runs the template on the Go value and, when that has no such
// field, on what its JSON says, as docker does.
func executeOn(w io.Writer, format string, object any) error {
	tmpl, err := parseTemplate(unescape(format))
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if tmpl.Execute(&b, object) == nil {
		_, err := w.Write(b.Bytes())
		return err
	}
	raw, err := marshal(object, "")
	if err != nil {
		return err
	}
	var decoded map[string]any
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	if err := decoder.Decode(&decoded); err != nil {
		return err
	}
	b.Reset()
	if err := tmpl.Option("missingkey=error").Execute(&b, decoded); err != nil {
		var known []string
		for key := range decoded {
			known = append(known, key)
		}
		slices.Sort(known)
		return templateError(err, known)
	}
	_, err = w.Write(b.Bytes())
	return err
}
