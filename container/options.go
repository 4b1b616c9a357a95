package container

import "moss/oci"

// Options is what a user asks of a container: the flags of run as plain data.
// Nothing in it has been looked up yet; Create turns it into a Record.
type Options struct {
	Image      string        // reference as typed; "" with Rootfs
	Rootfs     string        // --rootfs: a directory used instead of an image
	Args       []string      // what stands behind the image
	Entrypoint *[]string     // nil: the image's; empty: none
	Platform   *oci.Platform // nil: the host's
	Pull       string        // "missing" (default), "always", "never"

	Name       string
	CIDFile    string
	Hostname   string
	User       string // "" : the image's
	WorkingDir string // "" : the image's
	Env        []string
	Labels     map[string]string
	StopSignal string

	Interactive bool // -i
	TTY         bool // -t
	Remove      bool // --rm
	Init        bool
	Privileged  bool
	ReadOnly    bool
	Quiet       bool

	Network    string // "host", "none", or "": the host's, under a name of its own
	AddHosts   []string
	DNS        []string
	DNSSearch  []string
	DNSOptions []string

	Mounts      []Mount // -v, --mount and --tmpfs, in the order given
	CapAdd      []string
	CapDrop     []string
	SecurityOpt []string
	GroupAdd    []string
	Ulimits     []Ulimit
	ShmSize     int64 // bytes; 0: 64 MiB
}

// Mount is one thing put into the container's tree.
type Mount struct {
	Type          string   `json:"Type"`                    // "bind", "tmpfs" or "volume"
	Source        string   `json:"Source,omitempty"`        // host path of a bind; name of a volume, "" when anonymous
	Target        string   `json:"Target"`                  // absolute path inside
	ReadOnly      bool     `json:"ReadOnly,omitempty"`      //
	NonRecursive  bool     `json:"NonRecursive,omitempty"`  // bind without what is mounted below Source
	Propagation   string   `json:"Propagation,omitempty"`   // "rprivate" (default), "rslave", …
	CreateSource  bool     `json:"CreateSource,omitempty"`  // -v makes a missing directory, --mount does not
	TmpfsOptions  []string `json:"TmpfsOptions,omitempty"`  // "size=64m", "mode=1777", "exec", …
	VolumeNoCopy  bool     `json:"VolumeNoCopy,omitempty"`  // do not fill a new volume from the image
	FromImage     bool     `json:"FromImage,omitempty"`     // the image's VOLUME, not asked for on the command line
	VolumeSubpath string   `json:"VolumeSubpath,omitempty"` //
}

// Ulimit is one resource limit, by its docker name ("nofile"); -1 is unlimited.
type Ulimit struct {
	Name string `json:"Name"`
	Hard int64  `json:"Hard"`
	Soft int64  `json:"Soft"`
}
