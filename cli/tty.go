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

// canDraw reports whether lines can be drawn over on f: a terminal that knows
// its size. Serial lines and some pseudo-terminals say 0 by 0.
func canDraw(f *os.File) bool {
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	return err == nil && size.Col > 0 && size.Row > 0
}
