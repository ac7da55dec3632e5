package transport

import (
	"net"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/intramesh/mesh/discovery/gossip/internal/guard"
)

// maxProbes bounds how many pings are remembered: more than memberlist can be waiting for.
const maxProbes = 64

// probes remembers the numbers of the pings sent last.
type probes struct {
	numbers [maxProbes]uint32
	sent    int
	ended   bool
}

// note remembers the ping in b, if there is one. It returns false when nothing is to be sent any more.
func (t *Transport) note(b []byte) bool {
	number, ok := guard.PingNumber(b)
	t.mu.Lock()
	defer t.mu.Unlock()
	if ok {
		t.probes.numbers[t.probes.sent%maxProbes] = number
		t.probes.sent++
	}
	return !t.probes.ended
}

// endProbes makes memberlist give up waiting for the answers to its pings, by answering them
// all. Its Shutdown would leave a goroutine behind for each until the probe's time is over, which is
// up to eight intervals. Nothing is sent or received from then on, so that it asks no more.
func (t *Transport) endProbes() {
	t.mu.Lock()
	t.probes.ended = true
	first := max(0, t.probes.sent-maxProbes)
	t.mu.Unlock()
	patience := time.NewTimer(time.Second)
	defer patience.Stop()
	select {
	case t.handing <- struct{}{}: // else a packet that is on its way could have it ping once more, for another member
	case <-t.ctx.Done():
		return
	case <-patience.C:
		return // nobody listens
	}
	number, more := uint32(0), true // that answers nothing, but memberlist takes it when it is done with what it got before, and may have sent a ping for
	for i := first; more; i++ {
		select {
		case t.packets <- &memberlist.Packet{
			Buf: guard.Acknowledge(number), From: net.UDPAddrFromAddrPort(t.cfg.Advertise), Timestamp: time.Now(),
		}:
		case <-t.ctx.Done():
			return
		case <-patience.C:
			return // nobody listens
		}
		number, more = t.noted(i)
	}
}

// noted returns the number of the ping with that index, if it was sent.
func (t *Transport) noted(i int) (number uint32, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.probes.numbers[i%maxProbes], i < t.probes.sent
}
