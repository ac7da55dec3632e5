// Command quickstart shows a mesh at work: it starts a control plane, two instances of a service
// "payments" and one "orders" as processes of their own on the loopback interface, and walks
// through what the mesh does for them. Every step is checked; one that does not hold ends it with
// exit status 1. It leaves no process and no file behind.
//
//	go run ./examples/quickstart          # about ten seconds
//	go run ./examples/quickstart -keep    # then stays up, to be explored
//
// Reading order: scenario.go is the story, payments.go and orders.go are the two services, as a
// user of the library writes them; process.go and child.go only run them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// maxDuration ends a run in which something hangs. It is well above what the slowest machine needs.
const maxDuration = 40 * time.Second

func main() {
	if len(os.Args) == 3 && os.Args[1] == childArg {
		os.Exit(childMain())
	}
	keep := flag.Bool("keep", false, "stay up after the last step, until interrupted")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "usage: quickstart [-keep]\n\n%s\n",
			"Starts four processes on loopback and shows, step by step, what the mesh does for them.")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	os.Exit(parentMain(*keep))
}

func parentMain(keep bool) int {
	interrupted, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	out := newPrinter(os.Stdout)
	err := withProcesses(interrupted, func(ctx context.Context, g *group) error {
		s := &scenario{group: g, out: out}
		limited, cancel := context.WithTimeoutCause(ctx, maxDuration, fmt.Errorf("not done after %v", maxDuration))
		defer cancel()
		if err := s.run(limited); err != nil {
			return err
		}
		out.end()
		if !keep {
			return nil
		}
		return s.stay(limited, ctx)
	})
	switch {
	case err == nil:
		fmt.Println("no process and no file is left")
		return 0
	case interrupted.Err() != nil:
		fmt.Fprintln(os.Stderr, "\nquickstart: interrupted; no process and no file is left")
		return 130
	}
	out.fail()
	fmt.Fprintf(os.Stderr, "quickstart: %v\n", err)
	if f, ok := errors.AsType[*stepError](err); ok && f.logs != "" {
		fmt.Fprintf(os.Stderr, "\nthe last that the processes logged:\n%s", f.logs)
	}
	return 1
}
