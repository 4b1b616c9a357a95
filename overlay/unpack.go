package overlay

import (
	"context"
	"errors"
	"io"
)

// Unpack writes the layer's tar into the empty directory dir.
func Unpack(ctx context.Context, tar io.Reader, dir string, o UnpackOptions) ([]Fixup, error) {
	return nil, errors.ErrUnsupported
}
