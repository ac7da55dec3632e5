package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// A workload is something that all its contenders do, round after round.
type workload struct {
	name  string
	title string
	// contenders are in the order of the report; baselines are those that the report compares with.
	contenders []string
	baselines  []string
	// headline is the figure that the report and the picture show first.
	headline string
	goals    []goal
	// rounds is how many a full run makes; quickRounds 0 leaves the workload out of a quick one.
	rounds, quickRounds int
	// measure makes one round of one contender.
	measure func(ctx context.Context, b *bench, contender string) (figures, error)
	// pairs says that the contenders are pairs of processes that last for the whole run.
	pairs bool
	// again says that a round takes so little that there can be many more of them.
	again bool
}

// A goal bounds a ratio: the figure of ours by the baseline's. An empty baseline bounds the figure itself; added, how much more
// it is than the baseline's.
type goal struct {
	Contender string  `json:"contender"`
	Figure    string  `json:"figure"`
	Baseline  string  `json:"baseline,omitempty"`
	AtMost    float64 `json:"at_most"`
	Added     bool    `json:"added,omitempty"`
}

func ours(figure, baseline string, atMost float64) goal {
	return goal{Contender: nameOurs, Figure: figure, Baseline: baseline, AtMost: atMost}
}

func added(figure, baseline string, atMost float64) goal {
	g := ours(figure, baseline, atMost)
	g.Added = true
	return g
}

// raw are the contenders that carry any protocol.
func raw() []string {
	return append([]string{namePlain, nameTLS, nameSPIFFE, nameBefore, nameOurs, nameHost}, sidecarPairs()...)
}

func sidecarPairs() []string { return []string{"nginx", "haproxy", "stunnel", "ghostunnel"} }

// bestSidecar is a baseline: whichever of the pairs has the least median.
const bestSidecar = "the best sidecar pair"

const (
	fullRounds  = 17
	quickRounds = 15
)

// loadWorkload measures one load in every contender.
func loadWorkload(name, title, headline string, l load, quick bool, goals ...goal) workload {
	w := workload{
		name: name, title: title, contenders: raw(), baselines: []string{namePlain, nameTLS}, headline: headline,
		goals: goals, rounds: fullRounds, pairs: true, again: true,
		measure: func(_ context.Context, b *bench, contender string) (figures, error) {
			l := l
			l.Time = b.roundTime
			return b.pairs[contender].measure(l)
		},
	}
	if quick {
		w.quickRounds = quickRounds
	}
	return w
}

// workloads returns all that there are, in the order of the report.
func workloads() []workload {
	var all []workload
	for _, n := range []int{1, 16} {
		for _, size := range []int{64, 1 << 10} {
			// At 16 the processor is the limit, so that the time in a queue says little.
			headline, goals := figTime, []goal(nil)
			if n == 1 {
				headline, goals = figP50, []goal{ours(figP50, nameTLS, 1.05)}
			}
			goals = append(goals, ours(figTime, bestSidecar, 0.25), added(figAllocs, nameTLS, 0.5))
			all = append(all, loadWorkload(fmt.Sprintf("echo/%s/%d", bytesName(size), n),
				fmt.Sprintf("Echo of %s on %s", bytesName(size), connections(n)), headline,
				load{Kind: "echo", Size: size, InFlight: n}, size == 1<<10, goals...))
		}
	}
	all = append(all, dialWorkloads()...)
	for _, proto := range []string{"http1", "http2"} {
		for _, n := range []int{1, 16, 64, 256} {
			title := map[string]string{"http1": "HTTP/1.1", "http2": "HTTP/2"}[proto]
			goals := []goal{ours(figTime, nameTLS, 1/0.97)}
			if proto == "http1" {
				goals = append(goals, ours(figCPU, namePlain, 1.15))
			}
			all = append(all, loadWorkload(fmt.Sprintf("%s/%d", proto, n), fmt.Sprintf("%s, GET of 1 KiB with rules: %d in flight", title, n),
				figTime, load{Kind: proto, Size: 1 << 10, InFlight: n}, n == 16, goals...))
		}
	}
	all = append(all, versionWorkloads()...)
	for _, n := range []int{1, 16, 64, 256} {
		all = append(all, loadWorkload(fmt.Sprintf("grpc/%d", n), fmt.Sprintf("gRPC, unary call of 1 KiB with rules: %d in flight", n),
			figTime, load{Kind: "grpc", Size: 1 << 10, InFlight: n}, n == 16, ours(figTime, nameTLS, 1/0.97), added(figAllocs, nameTLS, 2)))
	}
	all = append(all, loadWorkload("stream/16", "gRPC, messages of 1 KiB on streams with rules: 16 streams", figTime,
		load{Kind: "stream", Size: 1 << 10, InFlight: 16}, false, ours(figTime, nameTLS, 1/0.97)))
	for _, n := range []int{1, 8} {
		for _, size := range []int{16 << 10, 64 << 10, 1 << 20} {
			limit := 1.0
			if n == 1 && size > 16<<10 {
				limit = 1 / 1.2
			}
			all = append(all, loadWorkload(fmt.Sprintf("bulk/%s/%d", bytesName(size), n),
				fmt.Sprintf("Bulk, writes of %s on %s", bytesName(size), connections(n)), figTime,
				load{Kind: "bulk", Size: size, InFlight: n}, n == 1 && size == 64<<10, ours(figTime, nameTLS, limit)))
		}
	}
	for _, size := range []int{4 << 10, 16 << 10, 64 << 10} {
		w := loadWorkload("first/"+bytesName(size), "First response on a new connection: "+bytesName(size), figP50,
			load{Kind: "first", Size: size, InFlight: 1, MaxOps: 200}, false)
		if size == 16<<10 {
			w.goals = []goal{ours(figP50, nameTLS, 0.8)}
		}
		all = append(all, w)
	}
	beside := loadWorkload("beside", "Echo of 64 B beside a bulk transfer to the same server", figP50, load{}, false, ours(figByAlone, "", 1.2))
	beside.measure = measureBeside
	return slices.Concat(append(all, beside), wholeWorkloads(), localWorkloads())
}

// dialWorkloads dial a peer that was never talked to, and one that was. The former has to shake hands like everybody; the latter is
// what reuse is for, and does the same as before in contenders that know none.
func dialWorkloads() []workload {
	var all []workload
	for _, kind := range []string{"cold", "warm"} {
		for _, n := range []int{1, 8, 64} {
			l, title := load{Kind: "dial", Size: 64, InFlight: n, MaxOps: 4096 / n}, "already talked to"
			var goals []goal
			if limit := map[int]float64{1: 0.30, 8: 0.40}[n]; limit > 0 {
				goals = []goal{ours(figP50, namePlain, limit), ours(figCPU, namePlain, limit), ours(figAllocs, "", 8)}
			}
			if kind == "cold" {
				l.Kind, title, goals = kind, "that is new", []goal{ours(figCPU, nameSPIFFE, 0.70)}
			}
			w := loadWorkload(fmt.Sprintf("dial/%s/%d", kind, n), fmt.Sprintf("Dial to a peer %s, echo 64 B, close: %d at a time", title, n), figTime,
				l, n == 8, goals...)
			if n == 1 {
				w.headline = figP50
			}
			all = append(all, w)
		}
	}
	return all
}

// figByAlone is the median beside a bulk transfer by the one without.
const figByAlone = "p50 by alone"

func measureBeside(_ context.Context, b *bench, contender string) (figures, error) {
	alone := load{Kind: "echo", Size: 64, InFlight: 1, Time: b.roundTime}
	beside := alone
	beside.Kind = "beside"
	base, err := b.pairs[contender].measure(alone)
	if err != nil {
		return nil, err
	}
	f, err := b.pairs[contender].measure(beside)
	if err != nil {
		return nil, err
	}
	return figures{figP50: f[figP50], figP99: f[figP99], figByAlone: f[figP50] / base[figP50]}, nil
}

func connections(n int) string {
	if n == 1 {
		return "1 connection"
	}
	return fmt.Sprintf("%d connections", n)
}

func bytesName(n int) string {
	switch {
	case n >= 1<<20:
		return fmt.Sprintf("%dMiB", n>>20)
	case n >= 1<<10:
		return fmt.Sprintf("%dKiB", n>>10)
	}
	return fmt.Sprintf("%dB", n)
}

// How long a load runs in one round.
const (
	fullRoundTime  = 60 * time.Millisecond
	quickRoundTime = 30 * time.Millisecond
)
