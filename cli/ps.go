package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"moss/container"
)

const formatUsage = `Format output using a custom template:
'table':            Print output in table format with column headers (default)
'table TEMPLATE':   Print output in table format using the given Go template
'json':             Print in JSON format
'TEMPLATE':         Print output using the given Go template`

const psFilters = "id name label status exited ancestor before since volume network"

func psVerb() *verb {
	return &verb{
		names: []string{"ps", "container ls", "container list", "container ps"},
		args:  "[OPTIONS]",
		short: "List containers",
		long: `Filters: id, name (regular expressions), label=KEY[=VALUE], status (created,
running, exited), exited=CODE, ancestor=IMAGE, before=CONTAINER,
since=CONTAINER, volume=NAME|PATH, network.`,
		examples: `
# Those that run
moss ps
# All of them, the last one only, or the last three
moss ps -a
moss ps -l
moss ps -n 3
# Those that failed, by name and status
moss ps -a --filter exited=1 --format 'table {{.Names}}\t{{.Status}}'
# Remove everything that has ended
moss rm $(moss ps -aq --filter status=exited)`,
		flags: func(c *command, f *pflag.FlagSet) action {
			p := &psOptions{command: c}
			boolFlag(f, &p.all, "all", "a", "Show all containers (default shows just running)")
			f.VarP(filterValue{&p.filters, psFilters}, "filter", "f", "Filter output based on conditions provided")
			f.StringVar(&p.format, "format", "", formatUsage)
			f.IntVarP(&p.last, "last", "n", -1, "Show n last created containers (includes all states)")
			boolFlag(f, &p.latest, "latest", "l", "Show the latest created container (includes all states)")
			boolFlag(f, &p.noTrunc, "no-trunc", "", "Don't truncate output")
			boolFlag(f, &p.quiet, "quiet", "q", "Only display container IDs")
			boolFlag(f, &p.size, "size", "s", "Display total file sizes")
			return func([]string) error { return p.run() }
		},
	}
}

type psOptions struct {
	*command
	all, latest, noTrunc, quiet, size bool
	last                              int
	format                            string
	filters                           filters
}

func (p *psOptions) run() error {
	e, err := p.open()
	if err != nil {
		return err
	}
	defer e.Close()
	records, err := e.List()
	if err != nil {
		return err
	}
	chosen, err := p.choose(e, records)
	if err != nil {
		return err
	}
	now := time.Now()
	rows := make([]*containerRow, len(chosen))
	for i, r := range chosen {
		rows[i] = &containerRow{r: r, now: now, whole: p.noTrunc}
		if p.size || strings.Contains(p.format, ".Size") {
			if rows[i].size, err = e.size(r); err != nil {
				return err
			}
		}
	}
	return psTable(p.size).print(p.out, rows, p.format, p.quiet)
}

// choose applies states, filters and the limit to records, newest first.
func (p *psOptions) choose(e finder, records []*container.Record) ([]*container.Record, error) {
	limit := p.last
	if p.latest {
		limit = 1
	}
	all := p.all || limit > 0 || len(p.filters["status"]) > 0
	keep, err := p.matcher(e, records)
	if err != nil {
		return nil, err
	}
	var chosen []*container.Record
	for _, r := range records {
		if !all && r.Status != container.Running {
			continue
		}
		ok, err := keep(r)
		if err != nil {
			return nil, err
		}
		if ok {
			chosen = append(chosen, r)
		}
		if limit > 0 && len(chosen) == limit {
			break
		}
	}
	return chosen, nil
}

// finder is what filters ask the engine.
type finder interface {
	Find(nameOrID string) (*container.Record, error)
	imageID(name string) string // "" when there is none
}

// matcher looks up what the filters name, once, and returns the test.
func (p *psOptions) matcher(e finder, records []*container.Record) (func(*container.Record) (bool, error), error) {
	f := p.filters
	for _, s := range f["status"] {
		known := []string{"created", "restarting", "running", "removing", "paused", "exited", "dead"}
		if !contains(known, s) {
			return nil, fmt.Errorf("invalid filter 'status=%s'%s", s, didYouMean("", s, known))
		}
	}
	for _, s := range f["exited"] {
		if _, err := strconv.Atoi(s); err != nil {
			return nil, fmt.Errorf("invalid filter 'exited=%s': want a number", s)
		}
	}
	var before, since time.Time
	for key, to := range map[string]*time.Time{"before": &before, "since": &since} {
		for _, name := range f[key] {
			r, err := e.Find(name)
			if err != nil {
				return nil, err
			}
			*to = r.Created
		}
	}
	ancestors := make([]string, len(f["ancestor"]))
	for i, name := range f["ancestor"] {
		ancestors[i] = e.imageID(name)
	}
	return func(r *container.Record) (bool, error) {
		switch {
		case !before.IsZero() && !r.Created.Before(before),
			!since.IsZero() && !r.Created.After(since),
			!f.labels(r.Process.Labels),
			len(f["status"]) > 0 && !contains(f["status"], r.Status),
			len(f["exited"]) > 0 && (r.Status != container.Exited || !contains(f["exited"], strconv.Itoa(r.ExitCode))),
			len(ancestors) > 0 && (r.ImageID == "" || !contains(ancestors, string(r.ImageID))) && !contains(f["ancestor"], r.ImageName),
			len(f["network"]) > 0 && !contains(f["network"], r.Options.Network),
			len(f["volume"]) > 0 && !slices.ContainsFunc(r.Process.Mounts, func(m container.Mount) bool {
				return contains(f["volume"], m.Source) || contains(f["volume"], m.Target)
			}):
			return false, nil
		}
		ok, err := f.any("id", r.ID)
		if !ok || err != nil {
			return false, err
		}
		return f.any("name", r.Name, "/"+r.Name)
	}, nil
}

// containerRow is one line of ps; its methods are the fields of templates.
type containerRow struct {
	r     *container.Record
	now   time.Time
	whole bool // --no-trunc
	size  diskSize
}

func psTable(size bool) *table[*containerRow] {
	t := &table[*containerRow]{
		fields: []field[*containerRow]{
			{"Command", "COMMAND", (*containerRow).Command},
			{"CreatedAt", "CREATED AT", (*containerRow).CreatedAt},
			{"ID", "CONTAINER ID", (*containerRow).ID},
			{"Image", "IMAGE", (*containerRow).Image},
			{"Labels", "LABELS", (*containerRow).Labels},
			{"LocalVolumes", "LOCAL VOLUMES", (*containerRow).LocalVolumes},
			{"Mounts", "MOUNTS", (*containerRow).Mounts},
			{"Names", "NAMES", (*containerRow).Names},
			{"Networks", "NETWORKS", (*containerRow).Networks},
			{"Platform", "PLATFORM", (*containerRow).Platform},
			{"Ports", "PORTS", (*containerRow).Ports},
			{"RunningFor", "CREATED", (*containerRow).RunningFor},
			{"Size", "SIZE", (*containerRow).Size},
			{"State", "STATE", (*containerRow).State},
			{"Status", "STATUS", (*containerRow).Status},
		},
		show: []string{"ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names"},
		id:   (*containerRow).ID,
	}
	if size {
		t.show = append(t.show, "Size")
	}
	return t
}

// ID is the container's id, 12 digits unless --no-trunc.
func (c *containerRow) ID() string {
	if c.whole {
		return c.r.ID
	}
	return shortID(c.r.ID)
}

// Image is the image as it was named when the container was made.
func (c *containerRow) Image() string { return c.r.ImageName }

// Command is the command line, in quotes.
func (c *containerRow) Command() string {
	s := strings.Join(c.r.Process.Argv(), " ")
	if !c.whole {
		s = ellipsis(s, 20)
	}
	return strconv.Quote(s)
}

// RunningFor is how long ago the container was made.
func (c *containerRow) RunningFor() string { return ago(c.now, c.r.Created) }

// CreatedAt is when the container was made.
func (c *containerRow) CreatedAt() string { return timestamp(c.r.Created) }

// State is one word: created, running, exited.
func (c *containerRow) State() string { return c.r.Status }

// Status is the state with its time: "Up 2 minutes".
func (c *containerRow) Status() string {
	switch c.r.Status {
	case container.Running:
		return "Up " + humanDuration(c.now.Sub(c.r.StartedAt))
	case container.Exited:
		return fmt.Sprintf("Exited (%d) %s", c.r.ExitCode, ago(c.now, c.r.FinishedAt))
	default:
		return "Created"
	}
}

// Ports is empty: published ports come with private networks.
func (c *containerRow) Ports() string { return "" }

// Names is the container's name.
func (c *containerRow) Names() string { return c.r.Name }

// Networks is "host" or "none".
func (c *containerRow) Networks() string { return c.r.Options.Network }

// Platform is what the image is for, os/arch.
func (c *containerRow) Platform() string { return c.r.Platform.String() }

// Labels are all labels, key=value joined by commas.
func (c *containerRow) Labels() string { return labelText(c.r.Process.Labels) }

// Label is the value of one label.
func (c *containerRow) Label(name string) string { return c.r.Process.Labels[name] }

// LocalVolumes counts the volumes.
func (c *containerRow) LocalVolumes() string {
	n := 0
	for _, m := range c.r.Process.Mounts {
		if m.Type == "volume" {
			n++
		}
	}
	return strconv.Itoa(n)
}

// Mounts are the sources of binds and the names of volumes.
func (c *containerRow) Mounts() string {
	var all []string
	for _, m := range c.r.Process.Mounts {
		if m.Source == "" {
			continue
		}
		if c.whole {
			all = append(all, m.Source)
		} else {
			all = append(all, ellipsis(m.Source, 15))
		}
	}
	return strings.Join(all, ",")
}

// Size is what the container has written, and the sum with its image.
func (c *containerRow) Size() string {
	s := humanSize(c.size.Written, 3)
	if c.size.Whole > 0 {
		s += " (virtual " + humanSize(c.size.Whole, 3) + ")"
	}
	return s
}

// labelText joins labels, sorted by key.
func labelText(labels map[string]string) string {
	all := make([]string, 0, len(labels))
	for k, v := range labels {
		all = append(all, k+"="+v)
	}
	slices.Sort(all)
	return strings.Join(all, ",")
}
