package main

import (
	"context"
	"fmt"
	"strings"
)

// The same stack held to one version of HTTP, beside the one that chooses; net/http chooses HTTP/2.
const (
	overHTTP1 = ", HTTP/1.1 only"
	overHTTP2 = ", HTTP/2 only"
)

// heldTo splits a contender's name: which stack it is, and the service that it calls instead of the one that offers both versions.
func heldTo(name string) (stack, service string) {
	if stack, ok := strings.CutSuffix(name, overHTTP1); ok {
		return stack, svcHTTP1
	}
	if stack, ok := strings.CutSuffix(name, overHTTP2); ok {
		return stack, svcHTTP2
	}
	return name, svcWeb
}

const (
	figOpen = "connections"
	figMade = "handshakes"
)

// versionWorkloads show what the choice of HTTP's version costs, and how many connections each one needs.
func versionWorkloads() []workload {
	var all []workload
	for _, n := range []int{1, 4, 16, 64, 256} {
		w := loadWorkload(fmt.Sprintf("web/%d", n), fmt.Sprintf("HTTP of either version, GET of 1 KiB with rules: %d in flight", n), figCPU,
			load{Kind: "web", Size: 1 << 10, InFlight: n}, false, ours(figCPU, nameOurs+overHTTP2, 1))
		w.contenders = []string{nameTLS, nameTLS + overHTTP1, nameBefore, nameOurs, nameOurs + overHTTP1, nameOurs + overHTTP2}
		w.baselines = []string{nameTLS, nameOurs + overHTTP2}
		w.measure = func(_ context.Context, b *bench, contender string) (figures, error) {
			return b.pairs[contender].measureConns(load{Kind: "web", Size: 1 << 10, InFlight: n, Time: b.roundTime})
		}
		all = append(all, w)
	}
	return all
}

// measureConns is measure with a count of connections: those open after the round, and all that were ever made.
func (c *contender) measureConns(l load) (figures, error) {
	f, err := c.measure(l)
	if err != nil {
		return nil, err
	}
	r, err := c.server.ask(command{Op: "usage"})
	if err != nil {
		return nil, err
	}
	f[figOpen], f[figMade] = float64(r.Open), float64(r.Made)
	return f, nil
}
