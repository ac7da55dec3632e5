package balance

import "time"

const (
	// slowStart is how long an endpoint is a newcomer, least the part of its weight that it begins with.
	slowStart = 10 * time.Second
	least     = 0.1
	// redraws bounds how often a newcomer is passed over in one draw.
	redraws = 4
)

// Warmth returns which part of its weight an endpoint of this age has.
func Warmth(age time.Duration) float64 {
	return min(max(float64(age)/float64(slowStart), least), 1)
}

// warming reports whether there are newcomers. It reads the clock only while there may be.
func (l *list[K]) warming() bool {
	end := l.warm.Load()
	if end == 0 {
		return false
	}
	if l.clock.now() < end {
		return true
	}
	l.warm.Store(0)
	return false
}

// warmth is that of an entry.
func (l *list[K]) warmth(e *entry[K]) float64 {
	if !e.fresh {
		return 1
	}
	return Warmth(time.Duration(l.clock.now() - e.since))
}

// ripe draws an entry, newcomers by as much of their weight as they have.
func (l *list[K]) ripe(g *group, rand func() uint64) int {
	for range redraws {
		r := rand()
		i := g.draw(r & (1<<32 - 1))
		if e := &l.entries[i]; !e.fresh || float64(r>>32) < l.warmth(e)*(1<<32) {
			return i
		}
	}
	return g.draw(rand() >> 32)
}
