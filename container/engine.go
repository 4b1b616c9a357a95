// Package container is the lifecycle: it is where the mechanisms (namespaces,
// overlay, pull, seccomp, cgroups) meet and become a container.
//
// Read run.go from top to bottom to see what moss run does.
package container

import (
	"moss/explain"
	"moss/image"
)

// Engine is one user's moss: a store of images and the containers on it.
// It holds no locks and no daemon's state; open one per command.
type Engine struct {
	Store   *image.Store
	Explain *explain.Narrator // nil: silent
	Warn    func(error)       // what was worked around; never nil

	root, runroot string
	containers    string // root/containers
}
