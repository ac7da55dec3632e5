// Command gossipsim measures the gossip of package discovery/gossip at sizes that no machine at hand has, on a virtual clock: members as users run them,
// in one process, over a network in memory with latency, loss and partitions; and, beyond what memory allows of those, those of package
// [github.com/intramesh/mesh/bench/gossipsim/light], a model of the same protocol.
//
//	go run ./bench/gossipsim -quick
//	go run ./bench/gossipsim -n 10,100,500,1000,2000,5000,10000
//	go run ./bench/gossipsim -n 1000 -real 1000 -run idle,update -out results
//
// The model runs at all sizes, real members up to -real. What both have measured shows how far the model can be relied on: the second table is of
// what one has said divided by the other.
//
// -quick is 10 and 100 members, and a minute instead of ten for what is watched long; it takes about a minute. A whole run of 100 real members
// takes a few minutes, one of 1,000 more than an hour of CPU and some GiB: -run does it in parts, which -out puts together. The model takes a minute at
// 1,000 and half an hour and 4 GiB at 10,000.
//
// Times are the protocol's own: the clock stands still while any member computes, so a slow or busy machine takes longer for a simulation and measures the
// same. What it does not show is therefore a starved process; the CPU that a real member took stands in the table.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/debug"
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
	real      int      // the largest of them with real members
	scenarios []string // all if empty
	minutes   float64
	crashes   int // of processes, in all: when one is noticed depends on when somebody happens to probe it
	latency   time.Duration
	losses    []int // in percent
	out       string
	progress  io.Writer // gets a line for each scenario
}

func parse(args []string) (o order, err error) {
	o.crashes = 50
	flags := flag.NewFlagSet("gossipsim", flag.ContinueOnError)
	sizes := flags.String("n", "10,100,500,1000,2000,5000,10000", "how many members, one simulation each")
	flags.IntVar(&o.real, "real", 100, "the largest size to run with real members; 0 runs the model alone")
	only := flags.String("run", "", "scenarios, separated by commas, all if empty: "+strings.Join(scenarioNames(), ", ")+". Without "+joining+" modelled members know each other from the start")
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

func (o order) duration() time.Duration { return time.Duration(o.minutes * float64(time.Minute)) }

func run(args []string) error {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	o.progress = os.Stderr
	for _, n := range o.sizes {
		if n <= o.real {
			err = fits(n, needs(n))
		}
		if err = cmp.Or(err, fits(n, modelNeeds(n))); err != nil {
			return err
		}
	}
	stdout := os.Stdout
	return asTest(func(t *testing.T) {
		results, err := o.simulate(t)
		fmt.Fprint(stdout, markdown(results))
		if err != nil {
			fmt.Fprintln(os.Stderr, "gossipsim:", err)
			os.Exit(1)
		}
	})
}

// simulate runs all that was ordered. What is known after a scenario is saved.
func (o order) simulate(t *testing.T) (results []*result, err error) {
	for _, n := range o.sizes {
		for _, model := range []bool{false, true} {
			if !model && n > o.real {
				continue
			}
			r := &result{N: n, Model: model, Figures: make(map[string]float64)}
			results = append(results, r)
			start, cpu := time.Now(), cpuTime()
			if model {
				debug.SetGCPercent(50) // large things live long
				err = o.model(t.Context(), r)
			} else {
				o.say("%s, at most %s of memory: join", r.name(), gib(bound(n)))
				synctest.Test(t, func(t *testing.T) { err = o.members(t.Context(), r) })
			}
			if err != nil {
				return results, fmt.Errorf("%s: %w", r.name(), err)
			}
			r.Real, r.CPU = time.Since(start).Seconds(), (cpuTime() - cpu).Seconds()
			if err := o.save(r); err != nil {
				return results, err
			}
			fmt.Fprintf(os.Stderr, "%s: %.0f s, %.0f s of CPU\n", r.name(), r.Real, r.CPU)
			debug.FreeOSMemory()
		}
	}
	return results, nil
}

// save puts what is known of a pool where -out says.
func (o order) save(r *result) error {
	if o.out == "" {
		return nil
	}
	return write(o.out, []*result{r})
}

// members measures real ones, within a bubble of package synctest.
func (o order) members(ctx context.Context, r *result) error {
	empty := heap()
	p, err := burst(ctx, newNetwork(o.latency), r.N, nil)
	if err != nil {
		return err
	}
	defer func() { _ = p.close() }()
	err = o.measure(ctx, p, r, func() { r.Figures["heap_kib"] = float64(heap()-empty) / float64(r.N) / 1024 })
	if err == nil && o.wants(observing) {
		o.say("%s: %s", r.name(), observing)
		err = o.observers(ctx, r)
	}
	return err
}

// model measures those of package light.
func (o order) model(ctx context.Context, r *result) error {
	o.say("%s", r.name())
	w, err := startModel(r.N, o.latency, !o.wants(joining))
	if err != nil {
		return err
	}
	return o.measure(ctx, w, r, func() {})
}
