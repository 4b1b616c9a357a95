package container

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"moss/internal/testimage"
	"moss/oci"
)

// TestDotDotKernel has images whose symlinks climb above the root. While moss
// puts the container together the host's tree is still mounted, and a path
// with too many ".." must not come out there.
func TestDotDotKernel(t *testing.T) {
	m := theMachine(t)
	up := strings.Repeat("../", 20)
	host := t.TempDir()
	os.Chmod(host, 0o777)
	for _, link := range []string{host, up + host[1:], "/.." + host, "/../../.." + host} {
		layer := testimage.NewBuilder().Symlink("data", link).Tar()
		img := m.image(t, oci.Config{}, layer)
		m.run(t, Options{Image: img, Remove: true, Network: "none", Args: []string{"pid"},
			Mounts: []Mount{{Type: "tmpfs", Target: "/data/made"}}})
		m.run(t, Options{Image: img, Remove: true, Network: "none", Args: []string{"pid"},
			Mounts: []Mount{{Type: "bind", Source: "/etc/hostname", Target: "/data/sub/file"}}})
		left, _ := filepath.Glob(host + "/*")
		if len(left) > 0 {
			t.Errorf("/data -> %s: made on the host: %v", link, left)
			for _, f := range left {
				os.RemoveAll(f)
			}
		}
	}
}
