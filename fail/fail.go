// Package fail holds the error that teaches: what failed, on what, why, and
// what to do about it.
//
// The kernel answers with one number and a registry with three digits; moss
// knows the context and a newcomer does not. So a failure that a user can meet
// carries up to four answers. The first two (Op, On) are always there; Why is
// a finding, looked up after the failure, never a guess; when nothing was
// found it stays empty, because a wrong hint costs more than none.
package fail

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Error is a failure with a lesson attached. Err keeps the cause, so that
// errors.Is(err, unix.EPERM) still holds after any number of wraps.
type Error struct {
	Op   string // the call as a person would write it: "mount(2) overlay"
	On   string // the object it was applied to: a path, a name, an address
	Err  error  // the cause, often a syscall.Errno; may be nil
	Why  string // the reason, looked up, in one sentence; "" when unknown
	Try  string // the command or setting that mends it; "" when unknown
	Docs string // repository path of the page that explains it; "" when none
}

// Error gives the first line only: "op on: cause".
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.On != "" {
		if e.Op != "" {
			b.WriteByte(' ')
		}
		b.WriteString(e.On)
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// Print writes err the way every moss command reports a failure: one line that
// says what happened, then the lessons of the innermost Error that has any.
//
//	moss: starting web: mount(2) overlay on /…/merged: operation not permitted
//	  why: …
//	  try: …
//	  see: docs/…
func Print(w io.Writer, err error) {
	fmt.Fprintf(w, "moss: %s\n", Clean(err.Error()))
	printLesson(w, err)
}

// Warn is Print for something that was worked around.
func Warn(w io.Writer, err error) {
	fmt.Fprintf(w, "moss: warning: %s\n", Clean(err.Error()))
	printLesson(w, err)
}

// Clean makes text from an image or a registry safe to show: what steers a
// terminal (control characters) or turns the direction of reading (format
// characters) is spelled out. Line breaks and tabs stay.
func Clean(s string) string {
	steers := func(r rune) bool {
		return r != '\n' && r != '\t' && (unicode.Is(unicode.Cc, r) || unicode.Is(unicode.Cf, r) || r == utf8.RuneError)
	}
	if strings.IndexFunc(s, steers) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if steers(r) {
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func printLesson(w io.Writer, err error) {
	lesson := Lesson(err)
	if lesson == nil {
		return
	}
	for _, line := range []struct{ label, text string }{
		{"why", lesson.Why}, {"try", lesson.Try}, {"see", lesson.Docs},
	} {
		if line.text != "" {
			fmt.Fprintf(w, "  %s: %s\n", line.label, strings.ReplaceAll(Clean(line.text), "\n", "\n       "))
		}
	}
}

// Lesson returns the innermost Error in err's chain that answers why or what
// to try, or nil. The innermost is the one written closest to the failure.
func Lesson(err error) *Error {
	var found *Error
	for err != nil {
		var e *Error
		if !errors.As(err, &e) {
			break
		}
		if e.Why != "" || e.Try != "" {
			found = e
		}
		err = e.Err
	}
	return found
}

// Exit statuses, as docker run has them (docker run reference, "Exit status").
const (
	StatusMoss       = 125 // moss itself failed
	StatusCannotExec = 126 // the command was found but cannot be invoked
	StatusNotFound   = 127 // the command was not found
	StatusSignal     = 128 // plus the number of the signal that ended it
)

// ExitError carries the exit status a command must end with. With a nil Err
// nothing is printed: the container's own status is passed on.
type ExitError struct {
	Status int
	Err    error
}

func (e *ExitError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit status %d", e.Status)
	}
	return e.Err.Error()
}

func (e *ExitError) Unwrap() error { return e.Err }

// Usage marks an error in how a command was typed; docker's status for it is
// 125 on run and create, 1 elsewhere.
type Usage struct {
	Command string // the verb, "" for moss itself
	Err     error
}

func (e *Usage) Error() string { return e.Err.Error() }
func (e *Usage) Unwrap() error { return e.Err }
