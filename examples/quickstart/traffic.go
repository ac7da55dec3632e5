package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/intramesh/mesh"
)

// A load is HTTP traffic that goes on until it is stopped: workers that each send one request after
// the other.
type load struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	report loadReport
	passed chan struct{} // closed and replaced at each request that ends
}

// A loadReport counts requests. One that is denied has failed.
type loadReport struct {
	Requests int
	Failed   int
	// Error is the first failure's.
	Error string
	// Slowest is the longest that a request took.
	Slowest time.Duration
	// By counts the requests that each instance answered.
	By map[string]int
}

const loadWorkers = 4

func (o *orders) startLoad(ctx context.Context, _ json.RawMessage) (any, error) {
	ctx, cancel := context.WithCancel(ctx)
	l := &load{cancel: cancel, passed: make(chan struct{}), report: loadReport{By: map[string]int{}}}
	for range loadWorkers {
		l.wg.Go(func() {
			for pause(ctx, 2*time.Millisecond) == nil {
				begun := time.Now()
				out, err := o.charge(context.WithoutCancel(ctx), "HTTP")
				if err == nil && out.Denied != nil {
					err = out.Denied
				}
				l.count(out.Instance, time.Since(begun), err)
			}
		})
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.load = l
	return nil, nil
}

func (l *load) count(instance string, took time.Duration, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := &l.report
	r.Requests++
	r.Slowest = max(r.Slowest, took)
	if err != nil {
		if r.Failed++; r.Failed == 1 {
			r.Error = err.Error()
		}
	} else {
		r.By[instance]++
	}
	close(l.passed)
	l.passed = make(chan struct{})
}

// passLoad lets the traffic go on for a while, and until some more requests have ended.
func (o *orders) passLoad(ctx context.Context, args json.RawMessage) (any, error) {
	var a passArgs
	if err := json.Unmarshal(args, &a); err != nil {
		return nil, err
	}
	o.mu.Lock()
	l := o.load
	o.mu.Unlock()
	if l == nil {
		return nil, errors.New("there is no traffic")
	}
	ctx, cancel := context.WithTimeout(ctx, a.For+10*time.Second)
	defer cancel()
	if err := pause(ctx, a.For); err != nil {
		return nil, err
	}
	for goal := -1; ; {
		l.mu.Lock()
		have, passed := l.report.Requests, l.passed
		l.mu.Unlock()
		if goal < 0 {
			goal = have + a.Requests
		}
		if have >= goal {
			return have, nil
		}
		select {
		case <-passed:
		case <-ctx.Done():
			return nil, fmt.Errorf("only %d of %d requests ended within 10 s", have+a.Requests-goal, a.Requests)
		}
	}
}

type passArgs struct {
	For      time.Duration
	Requests int
}

func (o *orders) stopLoad(context.Context, json.RawMessage) (any, error) {
	o.mu.Lock()
	l := o.load
	o.load = nil
	o.mu.Unlock()
	if l == nil {
		return nil, errors.New("there is no traffic")
	}
	l.cancel()
	l.wg.Wait()
	return l.report, nil
}

// held is a raw connection that stays open, and idle.
type held struct {
	closed chan struct{} // closed when the connection has ended; then the others are set
	at     time.Time
	err    error
}

// A cutReport says how a held connection ended.
type cutReport struct {
	At     time.Time
	Error  string
	Denied *mesh.DeniedError
}

// hold opens a connection to a ledger, writes one line, and keeps it.
func (o *orders) hold(ctx context.Context, _ json.RawMessage) (any, error) {
	dialing, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	conn, err := o.mesh.Dial(dialing, "tcp", "payments:ledger")
	if err != nil {
		return nil, err
	}
	answers := bufio.NewReader(conn)
	r, err := appendLine(conn, answers, "1299 cents")
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	h := &held{closed: make(chan struct{})}
	go func() {
		defer close(h.closed)
		defer conn.Close()
		_, h.err = answers.ReadByte() // the ledger says nothing unasked
		h.at = time.Now()
	}()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.held = h
	return r.Instance, nil
}

// cut waits until the held connection has been closed from the other side.
func (o *orders) cut(ctx context.Context, _ json.RawMessage) (any, error) {
	o.mu.Lock()
	h := o.held
	o.mu.Unlock()
	if h == nil {
		return nil, errors.New("no connection is held")
	}
	select {
	case <-h.closed:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(10 * time.Second):
		return nil, errors.New("the connection is still open after 10 s")
	}
	r := cutReport{At: h.at}
	if h.err != nil {
		r.Error = h.err.Error()
	}
	r.Denied, _ = errors.AsType[*mesh.DeniedError](h.err)
	return r, nil
}
