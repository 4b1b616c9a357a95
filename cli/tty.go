package cli

import (
	"os"

	"golang.org/x/sys/unix"
)

// isTerminal asks the kernel: only a terminal answers TCGETS (ioctl_tty(2)).
func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// terminalWidth is in columns, 0 when f is not a terminal.
func terminalWidth(f *os.File) int {
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(size.Col)
}
