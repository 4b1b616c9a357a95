package container

import (
	"context"
	"errors"

	"moss/image"
)

const builtinImage = "hello"

func (e *Engine) builtin(ctx context.Context) (*image.Image, error) {
	return nil, errors.New("not yet")
}
