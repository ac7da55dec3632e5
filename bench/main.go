// Command bench measures what the mesh costs, beside plaintext, mutual TLS by crypto/tls, go-spiffe, and pairs of
// sidecars. From the repository's root:
//
//	go run ./bench            everything, 15 minutes at most
//	go run ./bench -quick     the most telling workloads, a minute at most
//	go run ./bench -run echo  those whose name matches
//	go run ./bench -before F  what a change does: F is a bench that was built without it
//
// Nginx (with its stream module), haproxy and stunnel take part where they are installed; ghostunnel is built, in the
// first full run.
//
// Client and server are processes of their own, on loopback, for every contender; all use the same certificates. Ours takes part twice:
// by TCP, as between hosts, and as "mesh, same host", by the Unix sockets that peers on one Linux host use by themselves. The
// contenders take turns within each round, in random order, and are compared round by round, so that what else the machine does
// at the time falls on all of them.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"
)

func main() {
	if os.Getenv(childVariable) != "" {
		if err := childMain(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "bench child:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := parentMain(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parentMain(ctx context.Context) error {
	b := bench{log: os.Stderr, roundTime: fullRoundTime}
	out := flag.String("o", "", "write results.md, results.json and results.svg to this `directory`")
	run := flag.String("run", "", "only workloads whose name matches this `regexp`")
	with := flag.String("with", "", "only contenders whose name matches this `regexp`")
	list := flag.Bool("list", false, "list the workloads and end")
	flag.BoolVar(&b.quick, "quick", false, "a minute at most")
	flag.IntVar(&b.rounds, "rounds", 0, "rounds of every workload, instead of its own number")
	flag.StringVar(&b.env.profile, "profile", "", "write CPU and allocation profiles of every process to this `directory`")
	flag.StringVar(&b.env.before, "before", "", "compare with a bench that was built earlier, this `file`; see -with")
	flag.Parse()
	var err error
	if b.only, err = regexp.Compile(*run); err != nil {
		return err
	}
	if b.with, err = regexp.Compile(*with); err != nil {
		return err
	}
	if *list {
		for _, w := range workloads() {
			fmt.Fprintf(os.Stdout, "%-22s %s\n", w.name, w.title)
		}
		return nil
	}
	limit := 14 * time.Minute
	if b.quick {
		b.roundTime, limit = quickRoundTime, 50*time.Second
	}
	for _, dir := range []string{*out, b.env.profile} {
		if dir != "" {
			if err := os.MkdirAll(dir, 0o750); err != nil {
				return err
			}
		}
	}
	if b.env.dir, err = os.MkdirTemp("", "mesh-bench"); err != nil {
		return err
	}
	defer os.RemoveAll(b.env.dir)
	if err := makeMaterial(b.env.dir); err != nil {
		return err
	}
	if !b.quick {
		if err := buildGhostunnel(ctx); err != nil {
			fmt.Fprintln(b.log, "ghostunnel could not be built:", err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	rep := newReport(b.quick)
	rep.Outcomes, err = b.run(ctx)
	if err != nil {
		fmt.Fprintln(b.log, "ended early:", err)
	}
	rep.finish(b.skipped)
	if *out == "" {
		return rep.markdown(os.Stdout)
	}
	return rep.write(filepath.Clean(*out))
}
