package meshdns

import (
	"net/netip"
	"sync"
	"time"
)

// maxNetworks bounds the networks of clients that are told apart within a second. More share what is left.
const maxNetworks = 4096

// limiter counts answers by network of clients, anew each second.
type limiter struct {
	rate int

	mu     sync.Mutex
	second int64
	sent   map[netip.Prefix]int
}

func newLimiter(rate int) *limiter { return &limiter{rate: rate, sent: make(map[netip.Prefix]int)} }

// allow reports whether one more answer may go there now.
func (l *limiter) allow(to netip.Addr, now time.Time) bool {
	to = to.Unmap()
	bits := 56
	if to.Is4() {
		bits = 24
	}
	network, err := to.WithZone("").Prefix(bits)
	if err != nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := now.Unix(); s != l.second {
		l.second = s
		clear(l.sent)
	}
	if _, known := l.sent[network]; !known && len(l.sent) >= maxNetworks {
		network = netip.Prefix{}
	}
	l.sent[network]++
	return l.sent[network] <= l.rate
}
