package transport

import (
	"crypto/tls"
	"net/netip"
	"time"
)

const (
	// maxStreams bounds the streams that others open at one time, maxPerHost those of one host.
	maxStreams = 64
	maxPerHost = 16
	// maxObservers bounds the observers that are served at one time, observersPerHost those of one host.
	maxObservers     = 256
	observersPerHost = 64
)

// A count is of streams, bounded in all and for each host.
type count struct {
	most, perHost, total int
	by                   map[netip.Addr]int
}

// add reports whether there is room for one more, and takes it.
func (c *count) add(host netip.Addr) bool {
	if c.total == c.most || c.by[host] == c.perHost {
		return false
	}
	c.total++
	c.by[host]++
	return true
}

func (c *count) remove(host netip.Addr) {
	c.total--
	if c.by[host]--; c.by[host] == 0 {
		delete(c.by, host)
	}
}

// track notes an open stream. It returns false when there are too many, or after Shutdown.
func (t *Transport) track(s *stream) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open == nil || s.inbound && !t.inbound.add(s.host) {
		return false
	}
	t.open[s] = struct{}{}
	t.wg.Add(1)
	return true
}

func (t *Transport) release(s *stream) {
	t.mu.Lock()
	defer t.mu.Unlock()
	defer t.wg.Done()
	delete(t.open, s)
	if s.inbound {
		t.inbound.remove(s.host)
	}
}

// observe serves an observer. The place that its stream had is for others then.
func (t *Transport) observe(s *stream) {
	t.mu.Lock()
	room := t.watch.add(s.host)
	if room {
		t.inbound.remove(s.host)
		s.inbound = false
	}
	t.mu.Unlock()
	c, ok := s.Conn.(*tls.Conn)
	if ok && c.SetDeadline(time.Time{}) == nil {
		t.cfg.Observe(c, !room)
	}
	_ = s.Close() // there is nobody to tell
	if room {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.watch.remove(s.host)
	}
}
