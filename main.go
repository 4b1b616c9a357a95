// Moss runs, builds and ships containers for one unprivileged Linux user, from
// one static binary, with no daemon, no root and nothing to set up first.
//
// docs/ARCHITECTURE.md is the map; "moss --explain run hello" tells the story
// that begins here.
package main

import (
	"os"

	"moss/cli"
	"moss/container"
)

func main() {
	// [run 1/9] one dispatch: the same binary is the command a person types and,
	// executed again by that command, a worker with a narrower role (work on
	// files of other ids has to be done by a process inside the id map).
	if handled, status := container.ReexecMain(os.Args); handled {
		os.Exit(status)
	}
	os.Exit(cli.Main(os.Args, os.Stdin, os.Stdout, os.Stderr))
}
