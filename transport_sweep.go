package mesh

import "time"

// pool returns the endpoint's pool, and retires those of the same target that view, discovery's
// present word, no longer has.
func (t *transport) pool(tg target, ep endpoint, view *endpointView) (*pool, error) {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil, ErrClosed
	}
	key := poolKey{tg, ep}
	p := t.pools[key]
	if p == nil {
		p = &pool{transport: t, target: tg, endpoint: ep, price: lanePrice}
		t.pools[key] = p
	}
	if t.sweeper == nil {
		t.sweeper = time.AfterFunc(idleTimeout/3, t.sweep)
	}
	news := p.view != view
	t.mu.Unlock()
	if news {
		t.retire(tg, view)
	}
	return p, nil
}

// retire compares the target's pools with what discovery says.
func (t *transport) retire(tg target, view *endpointView) {
	for _, p := range t.allPools() {
		if p.target == tg {
			_, ok := view.usable[p.endpoint]
			t.mu.Lock()
			p.view = view
			t.mu.Unlock()
			p.setRetired(!ok)
		}
	}
}

func (t *transport) allPools() []*pool {
	t.mu.Lock()
	defer t.mu.Unlock()
	pools := make([]*pool, 0, len(t.pools))
	for _, p := range t.pools {
		pools = append(pools, p)
	}
	return pools
}

// sweep closes connections that were idle for long, and forgets pools that have none. It runs as long as there are pools.
func (t *transport) sweep() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	t.wg.Go(func() {
		var empty []*pool
		for _, p := range t.allPools() {
			if p.closeIdle(time.Now().Add(-idleTimeout)) == 0 {
				empty = append(empty, p)
			}
		}
		t.forget(empty)
	})
}

// forget drops pools that have no connection, if that is still so, and arranges the next sweep.
func (t *transport) forget(empty []*pool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range empty {
		if p.closeIfEmpty() {
			delete(t.pools, poolKey{p.target, p.endpoint})
		}
	}
	t.sweeper = nil
	if len(t.pools) > 0 && !t.closed {
		t.sweeper = time.AfterFunc(idleTimeout/3, t.sweep)
	}
}

// close breaks all requests and waits for what the transport started.
func (t *transport) close() {
	t.mu.Lock()
	t.closed = true
	if t.sweeper != nil {
		t.sweeper.Stop()
	}
	if t.watcher != nil {
		t.watcher.Stop()
	}
	t.mu.Unlock()
	t.cancel()
	for _, p := range t.allPools() {
		t.wg.Go(p.close) // side by side: a peer that reads nothing delays each
	}
	t.wg.Wait()
}
