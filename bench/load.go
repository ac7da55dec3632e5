package main

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// A load is what a client does for one round: one operation again and again, in so many at once.
type load struct {
	Kind     string        `json:"kind"` // a key of kinds
	Size     int           `json:"size,omitempty"`
	InFlight int           `json:"in_flight"`
	Time     time.Duration `json:"time"`
	// MaxOps bounds the operations of each worker; 0 is no bound.
	MaxOps int `json:"max_ops,omitempty"`
}

// maxInFlight is the most that any load asks for.
const maxInFlight = 256

// A sample is what one round measured, from the client's side.
type sample struct {
	Ops     int           `json:"ops"`
	Elapsed time.Duration `json:"elapsed"`
	P50     time.Duration `json:"p50"`
	P99     time.Duration `json:"p99"`
	Max     time.Duration `json:"max"`
	End     time.Time     `json:"end"`
}

// A worker does operations one after the other.
type worker struct {
	// op does one operation. The time that counts is what it takes, unless it returns another.
	op func() (time.Duration, error)
	// batch is how many operations a call of op stands for; 0 is 1.
	batch int
	// warm is how many calls to make before measuring.
	warm  int
	close func()
}

// kinds makes the workers of each kind of load.
func kinds() map[string]func(clientEnd, load, int) (worker, error) {
	return map[string]func(clientEnd, load, int) (worker, error){
		"echo":   echoWorker,
		"beside": besideWorker,
		"dial":   dialWorker,
		"cold":   coldWorker,
		"bulk":   bulkWorker,
		"first":  firstWorker,
		"open":   openWorker,
		"cut":    cutWorker,
		"http1":  httpWorker(svcHTTP1),
		"http2":  httpWorker(svcHTTP2),
		"web":    httpWorker(svcWeb),
		"grpc":   grpcWorker,
		"stream": streamWorker,
	}
}

// A run is a load whose workers are ready.
type run struct {
	load    load
	workers []worker
}

func prepare(c clientEnd, l load) (*run, error) {
	newWorker := kinds()[l.Kind]
	if newWorker == nil {
		return nil, fmt.Errorf("unknown load %q", l.Kind)
	}
	r := &run{load: l}
	var mu sync.Mutex
	var errs error
	var wg sync.WaitGroup
	for i := range l.InFlight {
		wg.Go(func() {
			w, err := newWorker(c, l, i)
			for range w.warm {
				if err == nil {
					_, err = w.op()
				}
			}
			mu.Lock()
			defer mu.Unlock()
			if errs = errors.Join(errs, err); err == nil {
				r.workers = append(r.workers, w)
			}
		})
	}
	wg.Wait()
	if errs != nil {
		r.finish()
		return nil, errs
	}
	return r, nil
}

// measure lets all workers go at once, until the time is up. It also returns what this process used meanwhile.
func (r *run) measure() (sample, usage, error) {
	times := make([][]time.Duration, len(r.workers))
	errs := make([]error, len(r.workers))
	for i := range times {
		times[i] = make([]time.Duration, 0, 1<<10)
	}
	var wg sync.WaitGroup
	before, start := ownUsage(), time.Now()
	end := start.Add(r.load.Time)
	for i, w := range r.workers {
		wg.Go(func() {
			for n := 0; r.load.MaxOps == 0 || n < r.load.MaxOps; n++ {
				took, err := w.op()
				if err != nil {
					errs[i] = err
					return
				}
				times[i] = append(times[i], took)
				if time.Now().After(end) {
					return
				}
			}
		})
	}
	wg.Wait()
	s := sample{End: time.Now()}
	s.Elapsed = s.End.Sub(start)
	used := ownUsage().minus(before)
	if err := errors.Join(errs...); err != nil {
		return sample{}, usage{}, err
	}
	all := slices.Concat(times...)
	slices.Sort(all)
	batch := max(1, r.workers[0].batch)
	s.Ops = len(all) * batch
	s.Max = all[len(all)-1]
	s.P50, s.P99 = all[len(all)/2]/time.Duration(batch), all[len(all)*99/100]/time.Duration(batch)
	return s, used, nil
}

func (r *run) finish() {
	for _, w := range r.workers {
		if w.close != nil {
			w.close()
		}
	}
}
