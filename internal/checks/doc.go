// Package checks holds tests about the repository as a whole: that imports
// point down, that each outside module has one door, that the stories told in
// comments are complete, that what the pages cite is there.
//
// The rules are written where people read them, in docs/ARCHITECTURE.md and
// docs/DEPENDENCIES.md; the tests read them from there. They look at the source
// files only: no go command, no network, any user.
package checks
