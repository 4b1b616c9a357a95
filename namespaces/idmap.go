package namespaces

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"github.com/rootless-containers/rootlesskit/v3/pkg/parent/idtools"
	"golang.org/x/sys/unix"

	"moss/fail"
)

// MapMode is the kind of an IDMap.
type MapMode string

const (
	// SingleID maps the caller alone, to whatever id the container's user has.
	// Any process may write such a map for itself (user_namespaces(7),
	// "Defining user and group ID mappings: writing to uid_map and gid_map").
	SingleID MapMode = "single"
	// FullMap maps root to the caller and 65,536 subordinate ids behind it,
	// through the setuid programs newuidmap(1) and newgidmap(1).
	FullMap MapMode = "full"
	// RootMap is written by root itself: a range of unused host ids, so that
	// root inside is never root of the host.
	RootMap MapMode = "root"
)

// Range maps Count consecutive ids that start at Container inside to those
// that start at Host outside: a line of /proc/PID/uid_map.
type Range struct {
	Container int `json:"container"`
	Host      int `json:"host"`
	Count     int `json:"count"`
}

// IDMap says which ids of a container are which ids of the host. It is decided
// once per store: layers unpacked under one map have other owners than under
// another.
type IDMap struct {
	Mode MapMode `json:"mode"`
	UIDs []Range `json:"uids"`
	GIDs []Range `json:"gids"`
}

// Owner translates a container's uid and gid to the host's; ok is false when
// one of them is outside the map.
func (m IDMap) Owner(uid, gid int) (hostUID, hostGID int, ok bool) {
	hostUID, okU := translate(m.UIDs, uid)
	hostGID, okG := translate(m.GIDs, gid)
	return hostUID, hostGID, okU && okG
}

// Contains reports whether both ids are mapped.
func (m IDMap) Contains(uid, gid int) bool {
	_, _, ok := m.Owner(uid, gid)
	return ok
}

func translate(ranges []Range, id int) (int, bool) {
	for _, r := range ranges {
		if id >= r.Container && id-r.Container < r.Count {
			return r.Host + id - r.Container, true
		}
	}
	return 0, false
}

// String is the map's uid half, as in /proc/PID/uid_map.
func (m IDMap) String() string {
	var parts []string
	for _, r := range m.UIDs {
		parts = append(parts, fmt.Sprintf("%d→%d×%d", r.Container, r.Host, r.Count))
	}
	return strings.Join(parts, " ")
}

// Equal reports whether both maps translate alike.
func (m IDMap) Equal(o IDMap) bool {
	return fmt.Sprint(m.Mode, m.UIDs, m.GIDs) == fmt.Sprint(o.Mode, o.UIDs, o.GIDs)
}

// SingleMap maps the container's ids uid and gid to the caller's.
func SingleMap(uid, gid int) IDMap {
	return IDMap{
		Mode: SingleID,
		UIDs: []Range{{uid, os.Geteuid(), 1}},
		GIDs: []Range{{gid, os.Getegid(), 1}},
	}
}

// rootRange is where root's containers get their ids when /etc/subuid has no
// line for root: as many as an image can name, far above people's accounts and
// the ranges that useradd(8) hands out first.
var rootRange = Range{0, 1 << 29, 65536}

// Detect chooses the best map that this caller can have. The second result is
// nil when that is the full one, else an error that tells what was missing and
// how to get it; it is a note, not a failure.
func Detect() (IDMap, error) {
	uid := os.Geteuid()
	uids, gids, err := subordinate(uid)
	if uid == 0 && nested() {
		return SingleMap(0, 0), &fail.Error{
			Op: "root of a user namespace has not", On: "ids to give away",
			Why:  "moss runs inside a container or another user namespace, and /proc/self/uid_map does not hold all ids",
			Docs: "docs/ids.md",
		}
	}
	if uid == 0 {
		if len(uids) == 0 || len(gids) == 0 {
			uids, gids = []Range{rootRange}, []Range{rootRange}
		}
		return IDMap{Mode: RootMap, UIDs: uids, GIDs: gids}, nil
	}
	if err == nil {
		err = checkHelpers()
	}
	if err != nil {
		return SingleMap(0, 0), err
	}
	behind := func(first int, rest []Range) []Range {
		all := []Range{{0, first, 1}}
		for _, r := range rest {
			all = append(all, Range{r.Container + 1, r.Host, r.Count})
		}
		return all
	}
	return IDMap{Mode: FullMap, UIDs: behind(uid, uids), GIDs: behind(os.Getegid(), gids)}, nil
}

// nested reports whether this user namespace is not the host's: there all ids
// are mapped to themselves.
func nested() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && !slices.Equal(strings.Fields(string(b)), []string{"0", "0", "4294967295"})
}

// subordinate reads the caller's lines of /etc/subuid and /etc/subgid
// (subuid(5)), as ranges that start at container id 0.
func subordinate(uid int) (uids, gids []Range, err error) {
	name := ""
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		name = u.Username
	}
	subUIDs, subGIDs, err := idtools.GetSubIDRanges(uid, name)
	if err != nil && !errors.Is(err, os.ErrNotExist) && uid != 0 {
		err = noSubIDs(uid, name, err)
	}
	if err == nil && (len(subUIDs) == 0 || len(subGIDs) == 0) || errors.Is(err, os.ErrNotExist) {
		err = noSubIDs(uid, name, nil)
	}
	if err != nil {
		return nil, nil, err
	}
	ranges := func(sub []idtools.SubIDRange) (all []Range) {
		next := 0
		for _, s := range sub {
			all = append(all, Range{next, s.Start, s.Length})
			next += s.Length
		}
		return all
	}
	return ranges(subUIDs), ranges(subGIDs), nil
}

func noSubIDs(uid int, name string, cause error) error {
	if name == "" {
		name = strconv.Itoa(uid)
	}
	free := freeRange("/etc/subuid", "/etc/subgid")
	return &fail.Error{
		Op: "no subordinate ids for", On: name, Err: cause,
		Why: "/etc/subuid and /etc/subgid have no line for this user, so only your own id can be used in a container",
		Try: fmt.Sprintf("an administrator can run: usermod --add-subuids %[1]d-%[2]d --add-subgids %[1]d-%[2]d %[3]s",
			free, free+65535, name),
		Docs: "docs/ids.md",
	}
}

// freeRange is the first id behind all ranges the files hand out.
func freeRange(files ...string) int {
	free := 100000 // where useradd(8) starts
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Split(strings.TrimSpace(line), ":")
			if len(f) != 3 {
				continue
			}
			start, err1 := strconv.Atoi(f[1])
			count, err2 := strconv.Atoi(f[2])
			if err1 == nil && err2 == nil {
				free = max(free, start+count)
			}
		}
	}
	return free
}

// findHelper looks in PATH, and where distributions put setuid programs.
func findHelper(name string) (string, error) {
	path, err := exec.LookPath(name)
	for _, dir := range []string{"/usr/bin", "/usr/sbin", "/usr/local/bin"} {
		if err == nil {
			break
		}
		path, err = exec.LookPath(dir + "/" + name)
	}
	return path, err
}

// checkHelpers looks for the two setuid programs and their privilege.
func checkHelpers() error {
	for _, name := range []string{"newuidmap", "newgidmap"} {
		path, err := findHelper(name)
		if err != nil {
			return &fail.Error{
				Op: "no", On: name, Err: errors.New("not found in PATH"),
				Why:  "mapping more than your own id takes this setuid program",
				Try:  "an administrator can run: apt install uidmap   (Fedora: shadow-utils; Alpine: shadow-uidmap)",
				Docs: "docs/ids.md",
			}
		}
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			return fmt.Errorf("stat(2) %s: %w", path, err)
		}
		fileCaps, _ := unix.Getxattr(path, "security.capability", nil)
		if st.Mode&unix.S_ISUID == 0 && fileCaps <= 0 {
			return &fail.Error{
				Op: "using", On: path,
				Why:  "it is neither setuid root nor has it the file capability it needs",
				Try:  "an administrator can run: chmod u+s " + path,
				Docs: "docs/ids.md",
			}
		}
	}
	return nil
}

// writeMaps gives the user namespace of pid its map: directly when root,
// through the setuid programs otherwise, both at the same time.
func writeMaps(pid int, m IDMap) error {
	if m.Mode == RootMap {
		for file, ranges := range map[string][]Range{"uid_map": m.UIDs, "gid_map": m.GIDs} {
			var b bytes.Buffer
			for _, r := range ranges {
				fmt.Fprintf(&b, "%d %d %d\n", r.Container, r.Host, r.Count)
			}
			path := fmt.Sprintf("/proc/%d/%s", pid, file)
			if err := os.WriteFile(path, b.Bytes(), 0); err != nil {
				return fmt.Errorf("writing %q to %s: %w", b.String(), path, err)
			}
		}
		return nil
	}
	gids := make(chan error, 1)
	go func() { gids <- runHelper("newgidmap", pid, m.GIDs) }()
	return errors.Join(runHelper("newuidmap", pid, m.UIDs), <-gids)
}

func runHelper(name string, pid int, ranges []Range) error {
	args := []string{strconv.Itoa(pid)}
	for _, r := range ranges {
		args = append(args, strconv.Itoa(r.Container), strconv.Itoa(r.Host), strconv.Itoa(r.Count))
	}
	path, err := findHelper(name)
	if err != nil {
		return checkHelpers()
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		return &fail.Error{
			Op: name, On: strings.Join(args, " "), Err: err,
			Why:  strings.TrimSpace(string(out)),
			Try:  "see that /etc/subuid and /etc/subgid have a line for you that covers these ids",
			Docs: "docs/ids.md",
		}
	}
	return nil
}
