package main

import (
	"context"
	"time"

	"github.com/intramesh/mesh/bench/gossipsim/light"
)

// modelled is a world of package light.
type modelled struct {
	*light.Pool
	n        int
	versions uint16
}

// startModel starts n processes within a second, and waits until all have registered; or they have known each other for long.
func startModel(n int, latency time.Duration, whole bool) (*modelled, error) {
	p, err := light.New(light.Config{Members: n, Seeds: seedCount, PerService: perService, Latency: latency, Seed: uint64(n), Whole: whole}) //nolint:gosec // not negative
	if err != nil {
		return nil, err
	}
	w := &modelled{p, n, 1}
	spread(w, n, 10*time.Second, 10*time.Millisecond, func(i int) bool { own, _ := w.knows(i); return own > 0 })
	return w, nil
}

func (w *modelled) size() int                         { return w.n }
func (w *modelled) pause(d time.Duration)             { w.Run(d) }
func (w *modelled) now() time.Duration                { return w.Now() }
func (w *modelled) knows(i int) (usable, suspect int) { return w.Knows(i) }
func (w *modelled) sees(i, j int, version uint16) bool {
	return w.Sees(i, j, version)
}
func (w *modelled) setLoss(share float64) { w.SetLoss(share) }
func (w *modelled) split(from int)        { w.Split(from) }

func (w *modelled) announce(_ context.Context, i int) (uint16, error) {
	w.versions++
	w.Announce(i, w.versions)
	return w.versions, nil
}

func (w *modelled) kill(i int) func(int) bool {
	victim := w.Kill(i)
	return func(by int) bool { return w.Lost(by, victim) }
}

func (w *modelled) replace(_ context.Context, i int) error {
	w.Replace(i)
	return nil
}

func (w *modelled) restart(_ context.Context, i int) error {
	w.Restart(i)
	return nil
}

func (w *modelled) slander(victims map[int]bool) (pairs int) {
	for i := range w.n {
		if by := w.HeldDead(i); by > 0 {
			victims[i] = true
			pairs += by
		}
	}
	return pairs
}

func (w *modelled) sent() traffic {
	t := w.Traffic()
	return traffic{packets: t.Packets, bytes: t.Bytes, streams: t.Streams, mostStreamed: w.Streamed()}
}
