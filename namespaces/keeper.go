package namespaces

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// A full id map costs two setuid programs, some 2.6 ms: as much as the rest of
// a start. A user namespace cannot be kept by a bind mount without privileges,
// but any process in it keeps it. So the first start that needs the map leaves
// a keeper behind: a process that does nothing but sleep, without a program of
// its own, for keeperLife. Starts in that time join its user namespace, which
// costs 0.1 ms; a container that outlives the keeper keeps the namespace
// itself. There is nothing to stop and nothing to clean up.
const keeperLife = 10 * time.Second

// UserNS is an open user namespace with its map written. Close it after use;
// what runs inside keeps it alive.
type UserNS struct {
	fd  int // /proc/PID/ns/user: it keeps the namespace when the keeper ends
	pid int
	Map IDMap
}

// Close releases the handle.
func (u *UserNS) Close() {
	if u != nil && u.fd >= 0 {
		unix.Close(u.fd)
		u.fd = -1
	}
}

// keeperFile is what the keeper's file in the runtime directory says.
type keeperFile struct {
	Pid       int    `json:"pid"`
	StartTime uint64 `json:"starttime"`
	Map       IDMap  `json:"map"`
}

// JoinOrCreate returns a user namespace with map m, the keeper's when there is
// one. runroot is a directory that only the caller may write.
func JoinOrCreate(runroot string, m IDMap) (*UserNS, error) {
	path := filepath.Join(runroot, "keeper.json")
	if u := joinKeeper(path, m); u != nil {
		return u, nil
	}
	u, err := newKeeper(m)
	if err != nil {
		return nil, err
	}
	start, err := StartTime(u.pid)
	if err == nil {
		var b []byte
		if b, err = json.Marshal(keeperFile{u.pid, start, m}); err == nil {
			tmp := path + "." + strconv.Itoa(os.Getpid())
			if err = os.WriteFile(tmp, b, 0o600); err == nil {
				err = os.Rename(tmp, path)
			}
		}
	}
	if err != nil { // it still serves this start
		os.Remove(path)
	}
	return u, nil
}

// joinKeeper opens the namespace of the keeper that path names, or returns nil.
// A pid alone is not an identity: it counts only with the start time, looked up
// after the opening, which therefore met the same process.
func joinKeeper(path string, m IDMap) *UserNS {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	var k keeperFile
	if json.Unmarshal(b, &k) != nil || k.Pid <= 0 || !k.Map.Equal(m) {
		return nil
	}
	fd, err := openUserNS(k.Pid)
	if err != nil {
		return nil
	}
	if start, err := StartTime(k.Pid); err != nil || start != k.StartTime {
		unix.Close(fd)
		return nil
	}
	return &UserNS{fd: fd, pid: k.Pid, Map: m}
}

// newKeeper makes the namespace and its keeper. The child is a plain fork: it
// has to wait while this process maps it, so they cannot share a stack.
func newKeeper(m IDMap) (*UserNS, error) {
	var mapped [2]int // one byte through this pipe says that the map is written
	if err := unix.Pipe2(mapped[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("pipe2(2): %w", err)
	}
	defer unix.Close(mapped[0])
	defer unix.Close(mapped[1])

	var b [1]byte
	sleep := unix.NsecToTimespec(int64(keeperLife))
	p := new(Program)
	p.step("Wait until the map is written", "", "user_namespaces(7)")
	p.call("close", unix.SYS_CLOSE, num(mapped[1])) // or a killed parent would leave it waiting for ever
	p.call("read", unix.SYS_READ, num(mapped[0]), mem(&b[0], "…"), num(1))
	p.step("Let go of everything", "the keeper must not hold a pipe or a terminal open")
	p.call("close_range", unix.SYS_CLOSE_RANGE, num(0), show(^uintptr(0)>>32, "~0"), num(0))
	p.call("setsid", unix.SYS_SETSID)
	p.call("chdir", unix.SYS_CHDIR, str("/"))
	p.call("prctl", unix.SYS_PRCTL, show(unix.PR_SET_NAME, "PR_SET_NAME"), str("moss-keeper"))
	p.step("Sleep, then end", "")
	p.call("nanosleep", unix.SYS_NANOSLEEP, mem(&sleep, sleepText), null())
	p.call("exit_group", unix.SYS_EXIT_GROUP, num(0))

	pid, _, err := p.start(unix.CLONE_NEWUSER | uintptr(unix.SIGCHLD))
	if err != nil {
		return nil, ExplainUserNS(err)
	}
	undo := func() {
		unix.Kill(pid, unix.SIGKILL)
		wait(pid)
	}
	fd, err := openUserNS(pid)
	if err != nil {
		undo()
		return nil, fmt.Errorf("opening the new user namespace: %w", err)
	}
	if err := writeMaps(pid, m); err != nil {
		unix.Close(fd)
		undo()
		return nil, err
	}
	if _, err := unix.Write(mapped[1], []byte{1}); err != nil {
		unix.Close(fd)
		undo()
		return nil, fmt.Errorf("releasing the keeper: %w", err)
	}
	return &UserNS{fd: fd, pid: pid, Map: m}, nil
}

// openUserNS takes hold of the user namespace of a process. A pidfd would not
// do: setns(2) refuses that of a process which has ended, and a keeper may end
// between here and there.
func openUserNS(pid int) (int, error) {
	return unix.Open("/proc/"+strconv.Itoa(pid)+"/ns/user", unix.O_RDONLY|unix.O_CLOEXEC, 0)
}

var sleepText = "{" + strconv.Itoa(int(keeperLife/time.Second)) + " s}"

// StartTime is field 22 of /proc/PID/stat, proc_pid_stat(5): the clock tick
// since boot at which the process started. A pid with its start time is an
// identity, a pid alone is not.
func StartTime(pid int) (uint64, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	// The second field is the name in parentheses, which may contain anything.
	i := bytes.LastIndexByte(b, ')')
	fields := bytes.Fields(b[i+1:])
	if i < 0 || len(fields) < 20 {
		return 0, errors.New("malformed /proc/PID/stat")
	}
	if fields[0][0] == 'Z' || fields[0][0] == 'X' {
		return 0, unix.ESRCH // dead, only not yet waited for
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}
