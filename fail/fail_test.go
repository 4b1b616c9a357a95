package fail

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestPrint(t *testing.T) {
	inner := &Error{Op: "mount(2) overlay", On: "/m", Err: errors.New("operation not permitted"), Why: "because", Try: "this\nor that"}
	outer := fmt.Errorf("starting web: %w", &Error{Op: "stacking", Err: inner, Why: "less close"})
	var b strings.Builder
	Print(&b, outer)
	want := "moss: starting web: stacking: mount(2) overlay /m: operation not permitted\n" +
		"  why: because\n  try: this\n       or that\n"
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain ünïcode\n\tas it is": "plain ünïcode\n\tas it is",
		"\x1b]0;title\a":            `\x1b]0;title\a`,
		"a\u202eb":                  `a\u202eb`,
		"\x9b31m":                   `\ufffd31m`,
		"\r":                        `\r`,
	} {
		if got := Clean(in); got != want {
			t.Errorf("Clean(%q) = %q, want %q", in, got, want)
		}
	}
}
