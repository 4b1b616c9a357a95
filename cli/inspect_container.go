package cli

import (
	"path/filepath"
	"strings"
	"time"

	"moss/container"
)

// containerView is docker's JSON for a container (Docker Engine API,
// ContainerInspect). What moss does not have is there with docker's zero, so
// that templates written for docker find every field.
type containerView struct {
	ID              string `json:"Id"`
	Created         string
	Path            string
	Args            []string
	State           stateView
	Image           string
	ResolvConfPath  string
	HostnamePath    string
	HostsPath       string
	LogPath         string
	Name            string
	RestartCount    int
	Driver          string
	Platform        string
	MountLabel      string
	ProcessLabel    string
	AppArmorProfile string
	ExecIDs         []string
	HostConfig      hostConfigView
	GraphDriver     graphDriverView
	SizeRw          *int64 `json:",omitempty"`
	SizeRootFs      *int64 `json:",omitempty"`
	Mounts          []mountView
	Config          containerConfigView
	NetworkSettings networkSettingsView
}

type stateView struct {
	Status     string
	Running    bool
	Paused     bool
	Restarting bool
	OOMKilled  bool
	Dead       bool
	Pid        int
	ExitCode   int
	Error      string
	StartedAt  string
	FinishedAt string
}

type hostConfigView struct {
	Binds           []string
	ContainerIDFile string
	NetworkMode     string
	PortBindings    map[string][]portView
	RestartPolicy   restartPolicyView
	AutoRemove      bool
	CapAdd          []string
	CapDrop         []string
	CgroupnsMode    string
	DNS             []string `json:"Dns"`
	DNSOptions      []string `json:"DnsOptions"`
	DNSSearch       []string `json:"DnsSearch"`
	ExtraHosts      []string
	GroupAdd        []string
	IpcMode         string
	PidMode         string
	Privileged      bool
	ReadonlyRootfs  bool
	SecurityOpt     []string
	Tmpfs           map[string]string `json:",omitempty"`
	UTSMode         string
	UsernsMode      string
	ShmSize         int64
	Runtime         string
	Memory          int64
	NanoCpus        int64
	PidsLimit       *int64
	Ulimits         []container.Ulimit
	Mounts          []hostMountView `json:",omitempty"`
	Init            *bool           `json:",omitempty"`
}

type portView struct{ HostIP, HostPort string }

type restartPolicyView struct {
	Name              string
	MaximumRetryCount int
}

type hostMountView struct {
	Type     string
	Source   string `json:",omitempty"`
	Target   string
	ReadOnly bool `json:",omitempty"`
}

type mountView struct {
	Type        string
	Name        string `json:",omitempty"`
	Source      string
	Destination string
	Driver      string `json:",omitempty"`
	Mode        string
	RW          bool
	Propagation string
}

type containerConfigView struct {
	Hostname     string
	Domainname   string
	User         string
	AttachStdin  bool
	AttachStdout bool
	AttachStderr bool
	ExposedPorts map[string]struct{} `json:",omitempty"`
	Tty          bool
	OpenStdin    bool
	StdinOnce    bool
	Env          []string
	Cmd          []string
	Image        string
	Volumes      map[string]struct{}
	WorkingDir   string
	Entrypoint   []string
	OnBuild      []string
	Labels       map[string]string
	StopSignal   string `json:",omitempty"`
}

type networkSettingsView struct {
	Bridge      string
	SandboxID   string
	SandboxKey  string
	Ports       map[string][]portView
	Gateway     string
	IPAddress   string
	IPPrefixLen int
	MacAddress  string
	Networks    map[string]networkView
}

type networkView struct {
	NetworkID   string
	EndpointID  string
	Gateway     string
	IPAddress   string
	IPPrefixLen int
	MacAddress  string
}

const dockerDefaultShm = 64 << 20

// inspectContainer is the container as docker would describe it.
func inspectContainer(r *container.Record, root string) *containerView {
	dir := filepath.Join(root, "containers", r.ID)
	o, p := &r.Options, &r.Process
	v := &containerView{
		ID: r.ID, Created: stamp(r.Created), Args: []string{},
		Image: string(r.ImageID), Name: "/" + r.Name, Driver: "overlay", Platform: r.Platform.OS,
		ResolvConfPath: filepath.Join(dir, "resolv.conf"), HostnamePath: filepath.Join(dir, "hostname"), HostsPath: filepath.Join(dir, "hosts"),
		State: stateView{
			Status: r.Status, Running: r.Status == container.Running, Pid: r.Pid, ExitCode: r.ExitCode, Error: r.Error,
			StartedAt: stamp(r.StartedAt), FinishedAt: stamp(r.FinishedAt),
		},
		GraphDriver: graphDriverView{Name: "overlay", Data: map[string]string{
			"UpperDir": filepath.Join(dir, "upper"), "WorkDir": filepath.Join(dir, "work"),
		}},
		HostConfig: inspectHost(o),
		Mounts:     []mountView{},
		Config: containerConfigView{
			Hostname: p.Hostname, User: p.User, Tty: o.TTY, OpenStdin: o.Interactive, StdinOnce: o.Interactive,
			AttachStdin: o.Interactive, AttachStdout: true, AttachStderr: true,
			ExposedPorts: p.Exposed, Env: p.Env, Cmd: p.Cmd, Image: r.ImageName, WorkingDir: p.WorkingDir,
			Entrypoint: p.Entrypoint, Labels: p.Labels, StopSignal: p.StopSignal,
		},
		NetworkSettings: networkSettingsView{Networks: map[string]networkView{o.Network: {}}, Ports: map[string][]portView{}},
	}
	if !v.State.Running {
		v.State.Pid = 0
	}
	if argv := p.Argv(); len(argv) > 0 {
		v.Path, v.Args = argv[0], append(v.Args, argv[1:]...)
	}
	if v.Config.Labels == nil {
		v.Config.Labels = map[string]string{}
	}
	for _, m := range p.Mounts {
		if m.Type == "tmpfs" {
			continue // docker lists --tmpfs in HostConfig.Tmpfs only
		}
		v.Mounts = append(v.Mounts, inspectMount(m))
		if m.FromImage {
			if v.Config.Volumes == nil {
				v.Config.Volumes = map[string]struct{}{}
			}
			v.Config.Volumes[m.Target] = struct{}{}
		}
	}
	return v
}

func inspectMount(m container.Mount) mountView {
	v := mountView{Type: m.Type, Source: m.Source, Destination: m.Target, RW: !m.ReadOnly}
	switch m.Type {
	case "bind":
		v.Propagation = m.Propagation
		if v.Propagation == "" {
			v.Propagation = "rprivate"
		}
	case "volume":
		v.Name, v.Driver, v.Source = m.Source, "local", ""
	}
	if m.ReadOnly {
		v.Mode = "ro"
	}
	return v
}

func inspectHost(o *container.Options) hostConfigView {
	h := hostConfigView{
		ContainerIDFile: o.CIDFile, NetworkMode: o.Network, PortBindings: map[string][]portView{},
		RestartPolicy: restartPolicyView{Name: "no"}, AutoRemove: o.Remove,
		CapAdd: o.CapAdd, CapDrop: o.CapDrop, CgroupnsMode: "private",
		DNS: orEmpty(o.DNS), DNSOptions: orEmpty(o.DNSOptions), DNSSearch: orEmpty(o.DNSSearch),
		ExtraHosts: o.AddHosts, GroupAdd: o.GroupAdd, IpcMode: "private",
		Privileged: o.Privileged, ReadonlyRootfs: o.ReadOnly, SecurityOpt: o.SecurityOpt,
		ShmSize: o.ShmSize, Runtime: "moss", Ulimits: o.Ulimits,
	}
	if h.ShmSize == 0 {
		h.ShmSize = dockerDefaultShm
	}
	if h.Ulimits == nil {
		h.Ulimits = []container.Ulimit{}
	}
	if o.Init {
		h.Init = &o.Init
	}
	for _, m := range o.Mounts {
		switch {
		case m.Type == "tmpfs":
			if h.Tmpfs == nil {
				h.Tmpfs = map[string]string{}
			}
			h.Tmpfs[m.Target] = strings.Join(m.TmpfsOptions, ",")
		case m.Type == "bind" && m.CreateSource, m.Type == "volume" && m.Source != "":
			h.Binds = append(h.Binds, bindText(m))
		default:
			h.Mounts = append(h.Mounts, hostMountView{m.Type, m.Source, m.Target, m.ReadOnly})
		}
	}
	return h
}

// bindText is the mount as -v would be given it.
func bindText(m container.Mount) string {
	s := m.Source + ":" + m.Target
	var modes []string
	if m.ReadOnly {
		modes = append(modes, "ro")
	}
	if m.Propagation != "" {
		modes = append(modes, m.Propagation)
	}
	if m.VolumeNoCopy {
		modes = append(modes, "nocopy")
	}
	if len(modes) > 0 {
		s += ":" + strings.Join(modes, ",")
	}
	return s
}

func orEmpty(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

// stamp is docker's form of a time; Go's zero time is its "never".
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
