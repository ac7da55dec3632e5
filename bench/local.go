package main

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/intramesh/mesh/balance"
	"github.com/intramesh/mesh/policy"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// figRule is how much memory a compiled rule holds.
const figRule = "a rule's memory"

// A local is something to do n times within this process.
type local func(n int) error

// localWorkloads happen within one process.
func localWorkloads() []workload {
	var all []workload
	for _, rules := range []int{10, 1_000, 100_000} {
		accept := map[int]float64{1_000: 100, 100_000: 250}[rules]
		http := map[int]float64{1_000: 120, 100_000: 350}[rules]
		deciders := map[string]func() (local, error){
			nameOurs:   func() (local, error) { return decideHTTP(rules) },
			nameCEL:    celOneRule,
			nameLinear: func() (local, error) { return linearScan(rules) },
		}
		if rules <= 1_000 { // with more, it takes a minute to start
			deciders[nameAuthz] = func() (local, error) { return grpcAuthz(rules) }
		}
		all = append(all,
			localWorkload(fmt.Sprintf("decide/accept/%d", rules), fmt.Sprintf("A decision at accept, %d rules", rules), accept,
				map[string]func() (local, error){nameOurs: func() (local, error) { return decideAccept(rules) }}),
			localWorkload(fmt.Sprintf("decide/http/%d", rules), fmt.Sprintf("A decision with method and path, %d rules", rules), http, deciders))
	}
	all = append(all, localWorkload("decide/pinned", "A decision on a connection's pinned rules", 15, map[string]func() (local, error){nameOurs: decidePinned}))
	all = append(all, localWorkload("request", "What the mesh does for a request: reading, deciding, counting, its context", 150,
		map[string]func() (local, error){nameOurs: requestPath}))
	all = append(all, localWorkload("request/decided", "Of it, the rules, the time and the counters", 150,
		map[string]func() (local, error){nameOurs: authorizePath}))
	pick := localWorkload("pick", "Power of two choices among 10 endpoints", 40, map[string]func() (local, error){
		nameOurs: func() (local, error) { return pickOne(false) }, nameOurs + ", with its outcome": func() (local, error) { return pickOne(true) },
	})
	return append(all, pick, compileWorkload())
}

// localWorkload measures functions; limit, in nanoseconds, is ours' goal.
func localWorkload(name, title string, limit float64, build map[string]func() (local, error)) workload {
	w := workload{name: name, title: title, headline: figTime, rounds: 15, again: true}
	if strings.HasSuffix(name, "/1000") || name == "decide/pinned" || name == "pick" || strings.HasPrefix(name, "request") {
		w.quickRounds = minRounds
	}
	if limit > 0 {
		w.goals = []goal{ours(figTime, "", limit), ours(figAllocs, "", 0)}
	}
	// Rules are compiled when they are first measured, not to list the workloads.
	made := make(map[string]func() (local, error))
	for _, contender := range []string{nameOurs, nameOurs + ", with its outcome", nameLinear, nameAuthz, nameCEL} {
		if f := build[contender]; f != nil {
			w.contenders = append(w.contenders, contender)
			made[contender] = sync.OnceValues(f)
		}
	}
	w.measure = func(_ context.Context, b *bench, contender string) (figures, error) {
		f, err := made[contender]()
		if err != nil {
			return nil, err
		}
		return timeLocal(f, b.roundTime)
	}
	return w
}

// timeLocal finds a number of calls that takes about as long as asked for, and times that many.
func timeLocal(f local, about time.Duration) (figures, error) {
	n := 1
	for {
		start := time.Now()
		if err := f(n); err != nil {
			return nil, err
		}
		took := time.Since(start)
		if took >= about/10 {
			n = max(1, int(float64(n)*float64(about)/float64(took)))
			break
		}
		n *= 4
	}
	runtime.GC()
	if err := f(n/8 + 1); err != nil { // the collector has emptied the caches
		return nil, err
	}
	before, start := ownUsage(), time.Now()
	err := f(n)
	took, used := time.Since(start), ownUsage().minus(before)
	// What the measuring itself allocates, a few objects, disappears in the rounding.
	allocs := math.Round(10*float64(used.Allocs)/float64(n)) / 10
	return figures{figTime: float64(took) / float64(n), figAllocs: allocs}, err
}

// bigRules is a mesh's worth of rules: ten for each service, every one for a caller of its own.
func bigRules(rules int) []policy.Document {
	var docs []policy.Document
	for i := range rules {
		docs = append(docs, policy.Document{
			APIVersion: policy.APIVersion, Kind: policy.Kind, Metadata: policy.Metadata{Name: fmt.Sprint("p", i)},
			Spec: policy.Spec{Service: fmt.Sprint("service-", i/10), Action: policy.ActionAllow, Rules: []policy.Rule{{
				From: []policy.Source{{Services: []string{fmt.Sprint("caller-", i)}}},
				To:   []policy.Operation{{Methods: []string{"POST"}, Paths: []string{"/v1/charge", "/v1/{id}/refund"}}},
			}}},
		})
	}
	return docs
}

func benchDomain() spiffeid.TrustDomain { return spiffeid.RequireTrustDomainFromString(trustDomain) }

// bigRequests asks for as many things that the rules allow.
func bigRequests(rules int, change func(*policy.Request)) []policy.Request {
	var all []policy.Request
	for i := 0; i < rules; i += max(1, rules/1000) {
		r := policy.Request{
			Source:      spiffeid.RequireFromPathf(benchDomain(), "/caller-%d", i),
			SourceAddr:  netip.MustParseAddr("10.0.0.1"),
			Destination: fmt.Sprint("service-", i/10),
		}
		change(&r)
		all = append(all, r)
	}
	return all
}

func decideAccept(rules int) (local, error) {
	return decide(rules, func(r *policy.Request) { r.Layer, r.Deferred = policy.LayerConnection, true })
}

func decideHTTP(rules int) (local, error) {
	return decide(rules, func(r *policy.Request) {
		r.Layer, r.Method, r.Path, r.Host = policy.LayerHTTP, "POST", "/v1/1234/refund", "service"
	})
}

func decide(rules int, change func(*policy.Request)) (local, error) {
	e, err := policy.Static(benchDomain(), bigRules(rules)...)
	if err != nil {
		return nil, err
	}
	requests := bigRequests(rules, change)
	return func(n int) error {
		ctx, i := context.Background(), 0
		for range n {
			if d := e.Authorize(ctx, &requests[i]); d.Verdict != policy.Allow {
				return fmt.Errorf("denied: %v", d)
			}
			if i++; i == len(requests) {
				i = 0
			}
		}
		return nil
	}, nil
}

func pickOne(outcome bool) (local, error) {
	set := balance.New[int]()
	var endpoints []balance.Endpoint[int]
	for i := range 10 {
		endpoints = append(endpoints, balance.Endpoint[int]{Key: i})
	}
	set.Update(endpoints)
	return func(n int) error {
		for range n {
			p, ok := set.Pick()
			if !ok {
				return fmt.Errorf("nobody to pick")
			}
			if outcome {
				p.Succeeded(time.Millisecond)
			}
			p.Done()
		}
		return nil
	}, nil
}

func compileWorkload() workload {
	bundle := sync.OnceValue(func() *policy.Bundle {
		return &policy.Bundle{TrustDomain: benchDomain(), Version: 1, Documents: bigRules(10_000)}
	})
	return workload{
		name: "compile", title: "Compile 10,000 rules", contenders: []string{nameOurs}, headline: figTime,
		rounds: 15, quickRounds: minRounds,
		goals: []goal{ours(figTime, "", 200e6), ours(figRule, "", 1<<10)},
		measure: func(context.Context, *bench, string) (figures, error) {
			in := bundle()
			before := liveHeap()
			start := time.Now()
			e, err := policy.Compile(in)
			took := time.Since(start)
			held := liveHeap() - before
			runtime.KeepAlive(e)
			return figures{figTime: float64(took), figRule: held / 10_000}, err
		},
	}
}

func liveHeap() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}
