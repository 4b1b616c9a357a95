package cli

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"moss/container"
)

func infoVerb() *verb {
	return &verb{
		names: []string{"info", "system info"},
		args:  "[OPTIONS]",
		short: "Display system-wide information",
		examples: `
# What moss found on this machine and what it has in its store
moss info
# Where the store is
moss info --format '{{.DockerRootDir}}'
# For a program
moss info --format json`,
		flags: func(c *command, f *pflag.FlagSet) action {
			format := f.StringP("format", "f", "", inspectFormat)
			return func([]string) error { return c.info(*format) }
		},
	}
}

// infoView is container.Info under docker's names, for --format.
type infoView struct {
	container.Info
	ContainersPaused int
	DockerRootDir    string
	IDMap            string
	ServerVersion    string
	Warnings         []string
}

func (c *command) info(format string) error {
	e, err := c.open()
	if err != nil {
		return err
	}
	defer e.Close()
	i, err := e.Info()
	if err != nil {
		return err
	}
	v := &infoView{Info: i, DockerRootDir: i.Root, IDMap: idMapText(i), ServerVersion: thisVersion().Version}
	for _, w := range i.Warnings {
		v.Warnings = append(v.Warnings, w.Error())
	}
	if format != "" {
		return c.printObject(format, v)
	}
	if _, err := c.out.Write(infoText(v)); err != nil {
		return err
	}
	for _, w := range i.Warnings {
		c.warn(w)
	}
	return nil
}

func infoText(v *infoView) []byte {
	var b bytes.Buffer
	line := func(name string, value any) { fmt.Fprintf(&b, " %s: %v\n", name, value) }
	fmt.Fprintf(&b, "Client:\n Version: %s\n\nHere:\n", v.ServerVersion)
	line("Containers", v.Containers)
	line(" Running", v.ContainersRunning)
	line(" Stopped", v.ContainersStopped)
	line("Images", v.Images)
	line("Storage Driver", v.Driver)
	for _, s := range v.DriverStatus {
		line(" "+s[0], s[1])
	}
	line("Ids", v.IDMap)
	line("Networks", strings.Join(v.Networks, " "))
	line("Cgroup Driver", v.CgroupDriver)
	line("Cgroup Version", v.CgroupVersion)
	line("Security Options", strings.Join(v.SecurityOptions, " "))
	line("Kernel Version", v.KernelVersion)
	line("Operating System", v.OperatingSystem)
	line("OSType", v.OSType)
	line("Architecture", v.Architecture)
	line("CPUs", v.NCPU)
	line("Total Memory", humanBinary(v.MemTotal))
	line("Name", v.Name)
	line("Root Dir", fmt.Sprintf("%s (%s of %s free)", v.Root, humanBinary(v.DiskFree), humanBinary(v.DiskSize)))
	line("Run Dir", v.RunRoot)
	return b.Bytes()
}

// idMapText says which ids a container has, and whether that is settled.
func idMapText(i container.Info) string {
	n := 0
	for _, r := range i.IDs.UIDs {
		n += r.Count
	}
	text := fmt.Sprintf("%s, %d user ids", i.IDs.Mode, n)
	if n == 1 {
		text = string(i.IDs.Mode) + ", your own id only"
	}
	if !i.IDsFixed {
		text += " (decided at the first use)"
	}
	return text
}

// humanBinary words n bytes in units of 1024: "1.5GiB".
func humanBinary(n int64) string {
	units := [...]string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	size, i := float64(n), 0
	for size >= 1024 && i < len(units)-1 {
		size /= 1024
		i++
	}
	return fmt.Sprintf("%.4g%s", size, units[i])
}
