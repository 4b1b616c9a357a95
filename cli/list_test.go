package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"moss/container"
	"moss/image"
	"moss/oci"
	"moss/pull"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func digest(s string) oci.Digest { return oci.FromBytes([]byte(s)) }

func reference(s string) oci.Reference {
	r, err := oci.ParseReference(s)
	if err != nil {
		panic(err)
	}
	return r
}

// records are three containers, newest first.
func records() []*container.Record {
	r := func(name, status string, age time.Duration, exit int, img string) *container.Record {
		return &container.Record{
			ID: digest(name).Hex(), Name: name, Created: noon.Add(-age), Status: status, ExitCode: exit,
			StartedAt: noon.Add(-age), FinishedAt: noon.Add(-age / 2), ImageName: img, ImageID: digest(img),
			Options: container.Options{Network: "host"},
			Process: container.ProcessConfig{
				Entrypoint: []string{"sh", "-c"}, Cmd: []string{"echo a long command line"},
				Labels: map[string]string{"tier": name, "app": "x"},
				Mounts: []container.Mount{{Type: "bind", Source: "/some/long/directory", Target: "/x"}, {Type: "volume", Source: "data", Target: "/y"}},
			},
		}
	}
	return []*container.Record{
		r("web", container.Running, 3*time.Minute, 0, "debian"),
		r("db", container.Exited, time.Hour, 1, "alpine"),
		r("web2", container.Created, 50*time.Hour, 0, "debian"),
	}
}

type fakeEngine []*container.Record

func (f fakeEngine) imageID(name string) string { return string(digest(name)) }

func (f fakeEngine) Find(name string) (*container.Record, error) {
	for _, r := range f {
		if r.Name == name {
			return r, nil
		}
	}
	return nil, container.ErrNotFound
}

func TestPsFilters(t *testing.T) {
	for flags, want := range map[string]string{
		"":                                    "web",
		"-a":                                  "web db web2",
		"-l":                                  "web",
		"-n 2":                                "web db",
		"-n 1 -f status=exited":               "db",
		"-f status=exited":                    "db",
		"-f status=exited -f status=created":  "db web2",
		"-a -f exited=1":                      "db",
		"-a -f exited=0":                      "",
		"-a -f name=web":                      "web web2",
		"-a -f name=^web$":                    "web",
		"-a -f name=^/web$":                   "web",
		"-a -f name=db -f name=web2":          "db web2",
		"-a -f label=app":                     "web db web2",
		"-a -f label=tier=db":                 "db",
		"-a -f label=app=x -f label=tier=web": "web",
		"-a -f ancestor=debian":               "web web2",
		"-a -f before=db":                     "web2",
		"-a -f since=web2":                    "web db",
		"-a -f since=web2 -f before=web":      "db",
		"-a -f volume=data":                   "web db web2",
		"-a -f volume=/z":                     "",
		"-a -f network=none":                  "",
		"-a -f id=" + digest("db").Short():    "db",
	} {
		got, err := psChoose(t, flags)
		if err != nil || got != want {
			t.Errorf("ps %s: got %q, %v, want %q", flags, got, err, want)
		}
	}
	for flags, want := range map[string]string{
		"-f frob=1":        "invalid filter 'frob'",
		"-f lable=x":       "did you mean 'label'?",
		"-f status":        "want name=value",
		"-f status=exitde": "did you mean 'exited'?",
		"-f exited=x":      "want a number",
		"-f before=none":   "no such container",
		"-a -f name=(":     "missing closing )",
	} {
		if got, err := psChoose(t, flags); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ps %s: got %q, %v, want an error with %q", flags, got, err, want)
		}
	}
}

func psChoose(t *testing.T, flags string) (string, error) {
	t.Helper()
	p := new(psOptions)
	f := pflag.NewFlagSet("ps", pflag.ContinueOnError)
	quiet(f)
	boolFlag(f, &p.all, "all", "a", "")
	boolFlag(f, &p.latest, "latest", "l", "")
	f.IntVarP(&p.last, "last", "n", -1, "")
	f.VarP(filterValue{&p.filters, psFilters}, "filter", "f", "")
	if err := f.Parse(strings.Fields(flags)); err != nil {
		return "", err
	}
	chosen, err := p.choose(fakeEngine(records()), records())
	var names []string
	for _, r := range chosen {
		names = append(names, r.Name)
	}
	return strings.Join(names, " "), err
}

func TestPsTable(t *testing.T) {
	var rows []*containerRow
	for _, r := range records() {
		r.ID = strings.Repeat("ab", 32)
		rows = append(rows, &containerRow{r: r, now: noon})
	}
	for format, want := range map[string]string{
		"": `CONTAINER ID   IMAGE    COMMAND                  CREATED             STATUS                         PORTS   NAMES
abababababab   debian   "sh -c echo a long c…"   3 minutes ago       Up 3 minutes                           web
abababababab   alpine   "sh -c echo a long c…"   About an hour ago   Exited (1) 30 minutes ago              db
abababababab   debian   "sh -c echo a long c…"   2 days ago          Created                                web2
`,
		`{{.Names}} {{.Label "tier"}} {{.Labels}} {{.Mounts}} {{.LocalVolumes}} {{.Networks}} {{.State}}`: `web web app=x,tier=web /some/long/dir…,data 1 host running
db db app=x,tier=db /some/long/dir…,data 1 host exited
web2 web2 app=x,tier=web2 /some/long/dir…,data 1 host created
`,
	} {
		var b strings.Builder
		if err := psTable(false).print(&b, rows, format, false); err != nil {
			t.Fatal(err)
		}
		// The columns' widths are TestTable's to check.
		if got, want := squeeze(b.String()), squeeze(want); got != want {
			t.Errorf("ps --format %q:\n%s\nwant:\n%s", format, got, want)
		}
	}
}

func squeeze(s string) string {
	var lines []string
	for line := range strings.SplitSeq(s, "\n") {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return strings.Join(lines, "\n")
}

func images() []*image.Image {
	one := &image.Image{ID: digest("one"), Size: 117e6, Created: noon.Add(-time.Hour),
		Names:   []oci.Reference{reference("debian:12"), reference("debian:bookworm"), reference("localhost:5000/app:1")},
		Digests: []oci.Reference{reference("debian@" + string(digest("m1")))}}
	one.Config.Config.Labels = map[string]string{"maker": "me"}
	return []*image.Image{
		one,
		{ID: digest("two"), Created: noon.Add(-48 * time.Hour), Digests: []oci.Reference{reference("alpine@" + string(digest("m2")))}},
		{ID: digest("three"), Created: noon.Add(-72 * time.Hour)},
	}
}

func TestImages(t *testing.T) {
	const all = "debian:12 debian:bookworm localhost:5000/app:1 alpine:<none> <none>:<none>"
	for _, row := range []struct{ filter, want string }{
		{"", all},
		{"dangling=true", "alpine:<none> <none>:<none>"},
		{"dangling=false", "debian:12 debian:bookworm localhost:5000/app:1"},
		{"reference=debian", "debian:12 debian:bookworm"},
		{"reference=debian:b*", "debian:bookworm"},
		{"reference=*/app", "localhost:5000/app:1"},
		{"reference=docker.io/library/debian:12", "debian:12"},
		{"reference=nothing", ""},
		{"label=maker", "debian:12 debian:bookworm localhost:5000/app:1"},
		{"label=maker=you", ""},
		{"before=debian:12", "alpine:<none> <none>:<none>"},
		{"since=three", "debian:12 debian:bookworm localhost:5000/app:1 alpine:<none>"},
		{"until=24h", "alpine:<none> <none>:<none>"},
		{"until=2025-12-31T00:00:00", "<none>:<none>"},
	} {
		o := new(imagesOptions)
		if row.filter != "" {
			if err := (filterValue{&o.filters, imageFilters}).Set(row.filter); err != nil {
				t.Fatal(err)
			}
		}
		got, err := listImages(o)
		if err != nil || got != row.want {
			t.Errorf("images --filter %s: got %q, %v, want %q", row.filter, got, err, row.want)
		}
	}
	for _, bad := range []string{"dangling=maybe", "reference=[", "until=yesterday", "before=none"} {
		o := new(imagesOptions)
		if err := (filterValue{&o.filters, imageFilters}).Set(bad); err != nil {
			t.Fatal(err)
		}
		if got, err := listImages(o); err == nil {
			t.Errorf("images --filter %s: got %q, want an error", bad, got)
		}
	}
}

func listImages(o *imagesOptions) (string, error) {
	keep, err := o.matcher(func(name string) (*image.Image, error) {
		for _, img := range images() {
			if digest(name) == img.ID || slices.Contains(img.Names, reference(name)) {
				return img, nil
			}
		}
		return nil, image.ErrNotFound
	}, noon)
	if err != nil {
		return "", err
	}
	var got []string
	for _, img := range images() {
		if keep(img) {
			for _, r := range o.rows(img, 0) {
				got = append(got, r.Repository()+":"+r.Tag())
			}
		}
	}
	return strings.Join(got, " "), nil
}

func TestImagesDigestsAndQuiet(t *testing.T) {
	img := images()[0]
	o := &imagesOptions{digests: true}
	var got []string
	for _, r := range o.rows(img, 0) {
		got = append(got, r.Tag()+" "+r.Digest())
	}
	m1 := string(digest("m1"))
	if want := []string{"12 " + m1, "bookworm " + m1, "1 <none>"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if rows := (&imagesOptions{quiet: true}).rows(img, 0); len(rows) != 1 || rows[0].ID() != img.ID.Short() {
		t.Errorf("-q: %d rows, want the id once", len(rows))
	}
}

func TestPlanRmi(t *testing.T) {
	one, two, three := images()[0], images()[1], images()[2]
	appOnly := &image.Image{ID: digest("app"), Names: []oci.Reference{reference("app:1")}, Digests: []oci.Reference{reference("app@" + string(digest("m3")))}}
	stopped := []*container.Record{{ID: digest("c").Hex(), Name: "c", ImageID: appOnly.ID, Status: container.Exited}}
	running := []*container.Record{{ID: digest("c").Hex(), Name: "c", ImageID: appOnly.ID, Status: container.Running}}
	for _, row := range []struct {
		typed   string
		img     *image.Image
		users   []*container.Record
		force   bool
		want    string // what is untagged, then "+" when the image goes
		wantErr string
	}{
		{typed: "debian:12", img: one, want: "debian:12"},
		{typed: "localhost:5000/app:1", img: one, want: "localhost:5000/app:1"},
		{typed: "alpine@" + string(digest("m2")), img: two, want: "alpine@" + string(digest("m2")) + " +"},
		{typed: string(three.ID), img: three, want: "+"},
		{typed: "app:1", img: appOnly, want: "app:1 app@" + string(digest("m3")) + " +"},
		{typed: appOnly.ID.Short(), img: appOnly, want: "app:1 app@" + string(digest("m3")) + " +"},
		{typed: one.ID.Short(), img: one, wantErr: "(must be forced) - image is referenced in multiple repositories"},
		{typed: one.ID.Short(), img: one, force: true, want: "debian:12 debian:bookworm localhost:5000/app:1 debian@" + string(digest("m1")) + " +"},
		{typed: "app:1", img: appOnly, users: stopped, wantErr: `conflict: unable to remove repository reference "app:1" (must force) - container ` + digest("c").Short() + " is using its referenced image " + appOnly.ID.Short()},
		{typed: appOnly.ID.Short(), img: appOnly, users: stopped, wantErr: "(must be forced) - image is being used by stopped container " + digest("c").Short()},
		{typed: appOnly.ID.Short(), img: appOnly, users: running, force: true, wantErr: "(cannot be forced) - image is being used by running container " + digest("c").Short()},
		{typed: "app:1", img: appOnly, users: stopped, force: true, want: "app:1 app@" + string(digest("m3")) + " +"},
		{typed: "app:1", img: appOnly, users: running, force: true, want: "app:1 app@" + string(digest("m3"))},
	} {
		plan, err := planRmi(row.typed, row.img, row.users, row.force)
		if row.wantErr != "" {
			if err == nil || !strings.Contains(err.Error(), row.wantErr) {
				t.Errorf("rmi %s: got %v, want an error with %q", row.typed, err, row.wantErr)
			}
			continue
		}
		got := familiar(plan.untag)
		if plan.remove {
			got = append(got, "+")
		}
		if err != nil || strings.Join(got, " ") != row.want {
			t.Errorf("rmi %s: got %q, %v, want %q", row.typed, got, err, row.want)
		}
	}
}

// The keys are those that scripts written for docker look for.
func TestInspectShape(t *testing.T) {
	r := records()[0]
	r.Options.Mounts = []container.Mount{
		{Type: "bind", Source: "/a", Target: "/b", CreateSource: true, ReadOnly: true},
		{Type: "tmpfs", Target: "/t", TmpfsOptions: []string{"size=1m"}},
		{Type: "bind", Source: "/c", Target: "/d"},
	}
	for object, keys := range map[any]string{
		inspectContainer(r, "/store"): "Id Created Path Args State Image ResolvConfPath HostnamePath HostsPath LogPath Name RestartCount Driver Platform " +
			"MountLabel ProcessLabel AppArmorProfile ExecIDs HostConfig GraphDriver Mounts Config NetworkSettings",
	} {
		b, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		var decoded map[string]any
		if err := json.Unmarshal(b, &decoded); err != nil {
			t.Fatal(err)
		}
		for key := range strings.FieldsSeq(keys) {
			if _, ok := decoded[key]; !ok {
				t.Errorf("no key %s in %s", key, b)
			}
		}
	}
	for format, want := range map[string]string{
		"{{.Id}}":                          r.ID,
		"{{.ID}}":                          r.ID,
		"{{.Name}} {{.Path}}":              "/web sh",
		"{{json .Args}}":                   `["-c","echo a long command line"]`,
		"{{.State.Status}}":                "running",
		"{{index .Config.Labels \"app\"}}": "x",
		"{{.HostConfig.Binds}}":            "[/a:/b:ro]",
		"{{json .HostConfig.Tmpfs}}":       `{"/t":"size=1m"}`,
		"{{.HostConfig.NetworkMode}}":      "host",
		"{{range .Mounts}}{{.Type}}:{{.Source}}:{{.Destination}} {{end}}": "bind:/some/long/directory:/x volume::/y ",
		"{{.HostConfig.Dns}}": "[]",
	} {
		got, err := execute(format, inspectContainer(r, "/store"))
		if err != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", format, got, err, want)
		}
	}
	if _, err := execute("{{.Stat}}", inspectContainer(r, "/store")); err == nil || !strings.Contains(err.Error(), "did you mean '.State'?") {
		t.Errorf("got %v", err)
	}
}

func execute(format string, object any) (string, error) {
	var b strings.Builder
	err := executeOn(&b, format, object)
	return b.String(), err
}

func TestProgressLines(t *testing.T) {
	layers := []oci.Descriptor{{Digest: digest("a"), Size: 10}, {Digest: digest("b"), Size: 20}}
	var b strings.Builder
	p := &progress{w: &b, what: progressFor{run: true}}
	p.Start(reference("debian:12"), layers)
	p.Layer(0, pull.Exists, 0)
	for _, s := range []pull.State{pull.Waiting, pull.Downloading, pull.Downloading, pull.Unpacking, pull.Done, pull.Done} {
		p.Layer(1, s, 5)
	}
	p.Layer(7, pull.Done, 0) // never asked for
	p.Close()
	want := fmt.Sprintf("Unable to find image 'debian:12' locally\n12: Pulling from library/debian\n"+
		"%[1]s: Already exists\n%[2]s: Pulling fs layer\n%[2]s: Pull complete\n", digest("a").Short(), digest("b").Short())
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

// With bars, layers report from many goroutines while others draw: nothing may
// wait for itself, and the last layer's end is the end of drawing.
func TestProgressBars(t *testing.T) {
	layers := make([]oci.Descriptor, 8)
	for i := range layers {
		layers[i] = oci.Descriptor{Digest: digest(fmt.Sprint(i)), Size: int64(1000 * i)}
	}
	p := &progress{w: io.Discard, tty: true}
	p.Start(reference("debian"), layers) // a mirror that fails
	p.Layer(0, pull.Downloading, 0)
	p.Start(reference("debian"), layers)
	var wg sync.WaitGroup
	for i, d := range layers {
		wg.Go(func() {
			for n := range int64(50) {
				p.Layer(i, pull.Downloading, d.Size*n/50)
			}
			p.Layer(i, pull.Retrying, 0)
			p.Layer(i, pull.Done, d.Size)
		})
	}
	wg.Wait()
	if p.bars != nil {
		t.Error("the bars outlive the last layer")
	}
	p.Close()
}

func TestExitStatus(t *testing.T) {
	if err := exitStatus(0, nil); err != nil {
		t.Errorf("got %v", err)
	}
	c := testCommand(t)
	for want, err := range map[int]error{
		7:   exitStatus(7, nil),
		125: exitStatus(0, errors.New("moss failed")),
		1:   errors.New("any other verb"),
	} {
		if got := c.status(err); got != want {
			t.Errorf("%v: status %d, want %d", err, got, want)
		}
	}
}
