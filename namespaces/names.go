package namespaces

import (
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// flagName gives a flag its name in the man page.
type flagName struct {
	bit  uintptr
	name string
}

func mountNames(flags uintptr) string {
	return flagNames(flags, []flagName{
		{unix.MS_BIND, "MS_BIND"}, {unix.MS_REC, "MS_REC"}, {unix.MS_PRIVATE, "MS_PRIVATE"}, {unix.MS_SLAVE, "MS_SLAVE"},
		{unix.MS_SHARED, "MS_SHARED"}, {unix.MS_UNBINDABLE, "MS_UNBINDABLE"}, {unix.MS_RDONLY, "MS_RDONLY"},
		{unix.MS_NOSUID, "MS_NOSUID"}, {unix.MS_NODEV, "MS_NODEV"}, {unix.MS_NOEXEC, "MS_NOEXEC"},
		{unix.MS_STRICTATIME, "MS_STRICTATIME"}, {unix.MS_NOATIME, "MS_NOATIME"}, {unix.MS_REMOUNT, "MS_REMOUNT"},
	})
}

func cloneNames(flags uintptr) string {
	return flagNames(flags&^0xff, []flagName{
		{unix.CLONE_NEWUSER, "CLONE_NEWUSER"}, {unix.CLONE_NEWNS, "CLONE_NEWNS"}, {unix.CLONE_NEWPID, "CLONE_NEWPID"},
		{unix.CLONE_NEWIPC, "CLONE_NEWIPC"}, {unix.CLONE_NEWUTS, "CLONE_NEWUTS"}, {unix.CLONE_NEWCGROUP, "CLONE_NEWCGROUP"},
		{unix.CLONE_NEWNET, "CLONE_NEWNET"}, {unix.CLONE_PARENT, "CLONE_PARENT"}, {unix.CLONE_VM, "CLONE_VM"}, {unix.CLONE_VFORK, "CLONE_VFORK"},
	})
}

func flagNames(flags uintptr, table []flagName) string {
	var names []string
	for _, f := range table {
		if flags&f.bit != 0 {
			names = append(names, f.name)
		}
	}
	return or(names)
}

func or(names []string) string {
	if len(names) == 0 {
		return "0"
	}
	return strings.Join(names, "|")
}

// rightsMessage is a struct msghdr with one descriptor to pass (unix(7),
// cmsg(3)) and all it points to, in one piece of memory.
type rightsMessage struct {
	hdr  unix.Msghdr
	iov  unix.Iovec
	data [8]byte
	cmsg unix.Cmsghdr
	fd   int32
	_    int32
}

func newRightsMessage() *rightsMessage {
	m := new(rightsMessage)
	m.iov.Base = &m.data[0]
	m.iov.SetLen(1)
	m.hdr.Iov = &m.iov
	m.hdr.SetIovlen(1)
	m.hdr.Control = (*byte)(unsafe.Pointer(&m.cmsg))
	m.hdr.SetControllen(int(unsafe.Sizeof(m.cmsg) + 8))
	m.cmsg.Level = unix.SOL_SOCKET
	m.cmsg.Type = unix.SCM_RIGHTS
	m.cmsg.SetLen(int(unsafe.Sizeof(m.cmsg)) + 4)
	return m
}
