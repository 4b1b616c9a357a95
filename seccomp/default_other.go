//go:build !amd64 && !arm64

package seccomp

import "golang.org/x/sys/unix"

// On these architectures every filter is compiled when it is needed.
const (
	prebuiltMajor, prebuiltMinor = 1 << 30, 0
	profileCaps                  = 0
)

var dockerFilter, dockerFilterFake, nocapsFilter, nocapsFilterFake [0]unix.SockFilter
