// Command gossipsim measures the gossip of package discovery/gossip at sizes that no machine at hand has: members as users run them, in one process,
// over a network in memory with latency, loss and partitions, on a virtual clock.
//
//	go run ./bench/gossipsim -quick
//	go run ./bench/gossipsim -n 10,100,1000 -out results
//
// -quick is 10 and 100 members, and a minute instead of ten for what is watched long; it takes about a minute. A whole run of 100
// takes a few minutes, one of 1,000 more than an hour of CPU and some GiB: -run does it in parts, which -out puts together.
//
// Times are the protocol's own: the clock stands still while any member computes, so a slow or busy machine takes longer for a simulation and measures the
// same. What it does not show is therefore a starved process; the CPU that a member took stands in the table.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "gossipsim:", err)
		os.Exit(1)
	}
}

// An order is what the command line asks for.
type order struct {
	sizes     []int
	scenarios []string // all if empty
	minutes   float64
	latency   time.Duration
	losses    []int // in percent
	out       string
	progress  io.Writer // gets a line for each scenario
}

func parse(args []string) (o order, err error) {
	flags := flag.NewFlagSet("gossipsim", flag.ContinueOnError)
	sizes := flags.String("n", "10,100,500", "how many members, one simulation each")
	only := flags.String("run", "", "scenarios, separated by commas, all if empty: "+strings.Join(scenarioNames(), ", "))
	flags.Float64Var(&o.minutes, "minutes", 10, "how long churn and each loss last, of the virtual clock")
	flags.DurationVar(&o.latency, "latency", 500*time.Microsecond, "of a packet, one way, at least; at most twice that")
	losses := flags.String("loss", "0,5,20", "percent of the datagrams that are lost, for as long each")
	flags.StringVar(&o.out, "out", "", "a directory for gossip.md, gossip.json and gossip.svg; what gossip.json has from other runs is kept")
	quick := flags.Bool("quick", false, "the same as -n 10,100 -minutes 1")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if *quick {
		*sizes, o.minutes = "10,100", 1
	}
	if o.sizes, err = numbers("-n", *sizes, 2*seedCount, 20_000); err != nil {
		return o, err
	}
	if o.losses, err = numbers("-loss", *losses, 0, 90); err != nil {
		return o, err
	}
	if *only != "" {
		o.scenarios = strings.Split(*only, ",")
	}
	for _, name := range o.scenarios {
		if !slices.Contains(scenarioNames(), name) {
			return o, fmt.Errorf("-run %q: want some of %s", name, strings.Join(scenarioNames(), ", "))
		}
	}
	return o, nil
}

// numbers reads a list of what a flag may have.
func numbers(name, list string, least, most int) (all []int, err error) {
	for s := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(s))
		if err != nil || n < least || n > most {
			return nil, fmt.Errorf("%s %q: want numbers from %d to %d", name, s, least, most)
		}
		all = append(all, n)
	}
	return all, nil
}

func run(args []string) error {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	stdout := os.Stdout
	for _, n := range o.sizes {
		if err := fits(n); err != nil {
			return err
		}
	}
	o.progress = os.Stderr
	return asTest(func(t *testing.T) {
		var results []*result
		for _, n := range o.sizes {
			fmt.Fprintf(os.Stderr, "%d members, at most %s of memory:\n", n, gib(needs(n)))
			bound(n)
			start, cpu := time.Now(), cpuTime()
			var r *result
			var err error
			synctest.Test(t, func(t *testing.T) { r, err = o.simulate(t.Context(), n) })
			if err != nil {
				fmt.Fprintf(os.Stderr, "gossipsim: %d members: %v\n", n, err)
				os.Exit(1)
			}
			r.Real, r.CPU = time.Since(start).Seconds(), (cpuTime() - cpu).Seconds()
			results = append(results, r)
			fmt.Fprintf(os.Stderr, "%d members: %.0f s, %.0f s of CPU\n", n, r.Real, r.CPU)
		}
		fmt.Fprint(stdout, markdown(results))
		if o.out != "" {
			if err := write(o.out, results); err != nil {
				fmt.Fprintln(os.Stderr, "gossipsim:", err)
				os.Exit(1)
			}
		}
	})
}
