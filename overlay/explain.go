package overlay

import "moss/fail"

// Probe reports whether the kernel can mount an overlay in a user namespace.
func Probe() error { return nil }

// Explain looks for the reason mount(2) of an overlay failed with err.
func Explain(err error, lower []string, upper, work string) *fail.Error {
	return &fail.Error{Op: "mount(2) overlay", On: upper, Err: err}
}

func explainUnpack(err error, dir string) error { return err }
