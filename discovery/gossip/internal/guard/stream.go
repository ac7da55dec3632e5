package guard

import (
	"fmt"
	"net/netip"
)

// MaxMessage bounds the message of a stream, in bytes.
const MaxMessage = 4 << 20

// Stream returns the message of a stream as memberlist may handle it. A request opens a stream, the
// other message answers it.
func (g *Guard) Stream(b []byte, request bool, from netip.AddrPort) ([]byte, error) {
	message, err := g.stream(b, request, from)
	if err != nil {
		g.refuse(err, from)
	}
	return message, err
}

func (g *Guard) stream(b []byte, request bool, from netip.AddrPort) ([]byte, error) {
	if len(b) == 0 || len(b) > MaxMessage {
		return nil, errMalformed
	}
	if message, ok, err := g.sync(b, request, from); ok {
		return message, err
	}
	kind := b[0]
	if kind == pushPull {
		return g.states(b[1:], from)
	}
	if request != (kind == ping) || !request && kind != ackResp && kind != errResp {
		return nil, fmt.Errorf("stream with a message of type %d", kind)
	}
	r := reader{b: b[1:]}
	f, ok := read(&r)
	if !ok || len(r.b) > 0 {
		return nil, errMalformed
	}
	if kind == ping {
		if f.Node != g.cfg.Name {
			return nil, errNotMe
		}
		f.Source = netip.AddrPort{} // the answer goes back on the stream
	}
	return write(kind, f), nil
}

// states checks a full exchange. States that an honest member would not hold are left out.
func (g *Guard) states(b []byte, from netip.AddrPort) ([]byte, error) {
	r := reader{b: b}
	head, ok := read(&r)
	if !ok || head.UserState != 0 || head.Nodes > MaxMembers {
		return nil, errMalformed
	}
	var states []byte
	var n uint32
	for range head.Nodes {
		f, ok := read(&r)
		if !ok {
			return nil, errMalformed
		}
		err := g.checkAlive(f)
		if err == nil && f.State != 0 {
			err = checkAccusation(fields{Node: f.Node, From: f.Node, Incarnation: f.Incarnation})
		}
		if err == nil && f.State > lastState {
			err = errMalformed
		}
		if err != nil {
			g.refuse(err, from)
			continue
		}
		w := writer{b: states}
		w.mapOf(7)
		w.member("Name", f)
		w.uint("State", f.State)
		states = w.b
		n++
	}
	if len(r.b) > 0 {
		return nil, errMalformed
	}
	w := writer{b: []byte{pushPull}}
	w.header(n, head.Join)
	return append(w.b, states...), nil
}

// header writes what precedes the states of a full exchange.
func (w *writer) header(states uint32, join bool) {
	w.mapOf(3)
	w.uint("Nodes", states)
	w.uint("UserStateLen", 0)
	w.bool("Join", join)
}

// NoState returns the message that opens a full exchange and tells of nobody.
func NoState() []byte {
	w := writer{b: []byte{pushPull}}
	w.header(0, false)
	return w.b
}

// IsState reports whether a stream's message is a full exchange.
func IsState(b []byte) bool { return len(b) > 0 && b[0] == pushPull }
