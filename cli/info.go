package cli

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"moss/container"
	"moss/overlay"
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

// infoView has docker's names where docker has the thing (Docker Engine API,
// SystemInfo), and moss's own at the end.
type infoView struct {
	Containers        int
	ContainersRunning int
	ContainersPaused  int
	ContainersStopped int
	Images            int
	Driver            string
	DriverStatus      [][2]string
	CgroupDriver      string
	CgroupVersion     string
	KernelVersion     string
	OperatingSystem   string
	OSType            string
	Architecture      string
	NCPU              int
	MemTotal          int64
	DockerRootDir     string
	RunRoot           string
	Name              string
	ServerVersion     string
	SecurityOptions   []string
	IDMap             string
	Warnings          []string
}

func (c *command) info(format string) error {
	e, err := c.open()
	if err != nil {
		return err
	}
	defer e.Close()
	v, err := c.gather(e)
	if err != nil {
		return err
	}
	if format != "" {
		return c.printObject(format, v)
	}
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
	line("Cgroup Version", v.CgroupVersion)
	line("Security Options", strings.Join(v.SecurityOptions, " "))
	line("Kernel Version", v.KernelVersion)
	line("Operating System", v.OperatingSystem)
	line("OSType", v.OSType)
	line("Architecture", v.Architecture)
	line("CPUs", v.NCPU)
	line("Total Memory", humanBinary(v.MemTotal))
	line("Name", v.Name)
	line("Root Dir", v.DockerRootDir)
	line("Run Dir", v.RunRoot)
	for _, w := range v.Warnings {
		fmt.Fprintf(&b, "WARNING: %s\n", w)
	}
	_, err = c.out.Write(b.Bytes())
	return err
}

func (c *command) gather(e *engine) (*infoView, error) {
	v := &infoView{
		Driver: "overlay", OSType: runtime.GOOS, NCPU: runtime.NumCPU(),
		DockerRootDir: e.Store.Root(), RunRoot: e.Store.RunRoot(), ServerVersion: thisVersion().Version,
		SecurityOptions: []string{"name=seccomp,profile=builtin", "name=rootless"},
		CgroupDriver:    "none",
	}
	records, err := e.List()
	if err != nil {
		return nil, err
	}
	v.Containers = len(records)
	for _, r := range records {
		if r.Status == container.Running {
			v.ContainersRunning++
		} else {
			v.ContainersStopped++
		}
	}
	images, err := e.Store.Images()
	if err != nil {
		return nil, err
	}
	v.Images = len(images)
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		v.KernelVersion = unix.ByteSliceToString(uts.Release[:])
		v.Architecture = unix.ByteSliceToString(uts.Machine[:])
		v.Name = unix.ByteSliceToString(uts.Nodename[:])
	}
	var sys unix.Sysinfo_t
	if unix.Sysinfo(&sys) == nil {
		v.MemTotal = int64(uint64(sys.Totalram) * uint64(sys.Unit))
	}
	v.OperatingSystem = osName()
	v.CgroupVersion = "1"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		v.CgroupVersion = "2"
	}
	v.DriverStatus = [][2]string{{"Overlay in a user namespace", "yes"}}
	if err := overlay.Probe(); err != nil {
		v.DriverStatus[0][1] = "no"
		v.Warnings = append(v.Warnings, err.Error())
	}
	ids, err := e.IDMap()
	if err != nil {
		return nil, err
	}
	n := 0
	for _, r := range ids.UIDs {
		n += r.Count
	}
	v.IDMap = fmt.Sprintf("%s, %d user ids", ids.Mode, n)
	return v, nil
}

// osName is what os-release(5) calls the system.
func osName() string {
	f, err := os.Open("/etc/os-release")
	if err != nil {
		return runtime.GOOS
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, ok := strings.CutPrefix(lines.Text(), "PRETTY_NAME="); ok {
			if plain, err := strconv.Unquote(name); err == nil {
				name = plain
			}
			return name
		}
	}
	return runtime.GOOS
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
