package main

import (
	"flag"
	"os"
	"testing"
)

// asTest runs f as a test, which package synctest wants around a virtual clock, and ends the process. What package testing prints of it is hidden.
func asTest(f func(t *testing.T)) error {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	os.Args, os.Stdout = os.Args[:1], null
	testing.Init()
	flag.CommandLine.Usage = func() {}
	testing.Main(func(_, _ string) (bool, error) { return true, nil }, []testing.InternalTest{{Name: "gossipsim", F: f}}, nil, nil)
	return nil
}
