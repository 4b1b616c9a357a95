package cli

import (
	"errors"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"moss/container"
	"moss/oci"
)

// list is a flag that may be repeated. Unlike pflag's StringSlice it does not
// split at commas, which docker's lists do not either.
type list struct {
	to    *[]string
	check func(string) (string, error) // nil: any string
}

func (l *list) Type() string   { return "list" }
func (l *list) String() string { return "" }

func (l *list) Set(s string) error {
	if l.check != nil {
		var err error
		if s, err = l.check(s); err != nil {
			return err
		}
	}
	*l.to = append(*l.to, s)
	return nil
}

// mountValue is -v, --mount or --tmpfs: all append to one list, in the order
// they were given.
type mountValue struct {
	to    *[]container.Mount
	name  string // as help shows the type
	parse func(string) (container.Mount, error)
}

func (m *mountValue) Type() string   { return m.name }
func (m *mountValue) String() string { return "" }

func (m *mountValue) Set(s string) error {
	mount, err := m.parse(s)
	if err != nil {
		return err
	}
	*m.to = append(*m.to, mount)
	return nil
}

// ulimitValue is --ulimit. A name given twice counts once, the last.
type ulimitValue struct{ to *[]container.Ulimit }

func (u ulimitValue) Type() string   { return "ulimit" }
func (u ulimitValue) String() string { return "" }

func (u ulimitValue) Set(s string) error {
	limit, err := parseUlimit(s)
	if err != nil {
		return err
	}
	for i, have := range *u.to {
		if have.Name == limit.Name {
			(*u.to)[i] = limit
			return nil
		}
	}
	*u.to = append(*u.to, limit)
	return nil
}

// boolValue is a switch. Pflag's own would be shown as --rm[=true|false].
type boolValue bool

func (b *boolValue) Type() string   { return "bool" }
func (b *boolValue) String() string { return "" }

func (b *boolValue) Set(s string) error {
	v, err := strconv.ParseBool(s)
	if err != nil {
		return errors.New("want true or false")
	}
	*b = boolValue(v)
	return nil
}

// boolFlag declares a switch that sets to, and returns to.
func boolFlag(f *pflag.FlagSet, to *bool, name, short, usage string) *bool {
	f.VarPF((*boolValue)(to), name, short, usage).NoOptDefVal = "true"
	return to
}

// bytesValue is a size in memory: 64m is 64 × 1024 × 1024.
type bytesValue struct{ to *int64 }

func (b bytesValue) Type() string   { return "bytes" }
func (b bytesValue) String() string { return "" }

func (b bytesValue) Set(s string) error {
	n, err := parseBytes(s)
	if err != nil {
		return err
	}
	*b.to = n
	return nil
}

// optionalString distinguishes --entrypoint "" from no --entrypoint.
type optionalString struct{ to **[]string }

func (o optionalString) Type() string   { return "string" }
func (o optionalString) String() string { return "" }

func (o optionalString) Set(s string) error {
	words := []string{}
	if s != "" {
		words = append(words, s)
	}
	*o.to = &words
	return nil
}

// platformValue is --platform os/arch[/variant].
type platformValue struct{ to **oci.Platform }

func (p platformValue) Type() string   { return "string" }
func (p platformValue) String() string { return "" }

func (p platformValue) Set(s string) error {
	parsed, err := oci.ParsePlatform(s)
	if err != nil {
		return err
	}
	*p.to = &parsed
	return nil
}

// optionalBool distinguishes --tls-verify=false from no --tls-verify.
type optionalBool struct{ to **bool }

func (o optionalBool) Type() string   { return "bool" }
func (o optionalBool) String() string { return "" }

func (o optionalBool) Set(s string) error {
	v, err := strconv.ParseBool(s)
	if err != nil {
		return errors.New("want true or false")
	}
	*o.to = &v
	return nil
}

// oneOf is a string out of a few.
type oneOf struct {
	to    *string
	words string // separated by blanks; the first is the default
}

func (o oneOf) Type() string   { return "string" }
func (o oneOf) String() string { return "" }

func (o oneOf) Set(s string) error {
	words := strings.Fields(o.words)
	for _, word := range words {
		if s == word {
			*o.to = s
			return nil
		}
	}
	return errors.New("must be one of " + strings.Join(words, ", ") + didYouMean("", s, words))
}
