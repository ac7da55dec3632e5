//go:build !linux

package faults_test

import (
	"context"
	"errors"
)

func replay(context.Context, spec) error { return errors.New("it takes Linux") }
