package guard

import "net/netip"

// Types of memberlist's messages, its net.go.
const (
	ping         = 0
	indirectPing = 1
	ackResp      = 2
	suspect      = 3
	alive        = 4
	dead         = 5
	pushPull     = 6
	compound     = 7
	nackResp     = 11
	hasCRC       = 12
	errResp      = 13
)

// Limits, in bytes unless said otherwise.
const (
	maxName  = 63
	maxMeta  = 512
	maxError = 512
	// lastState is the highest state of a member: left.
	lastState = 3
)

// fields are those of all of memberlist's messages together.
type fields struct {
	SeqNo, Incarnation uint32
	Node, From         string
	Addr               netip.AddrPort // of Addr or Target, and Port
	Source             netip.AddrPort // of SourceAddr and SourcePort
	SourceNode         string
	Payload, Meta, Vsn []byte
	Nack, Join         bool
	State              uint32
	Nodes, UserState   uint64
	Error              string
}

// read reads one map. Each key may come once; unknown ones are skipped.
func read(r *reader) (f fields, ok bool) {
	var addr, source []byte
	var port, sourcePort uint64
	seen := make(map[string]bool, 8)
	for range r.mapLen() {
		key := string(r.raw())
		if len(key) > maxName || seen[key] {
			r.bad = true
		}
		if r.bad {
			return f, false
		}
		seen[key] = true
		switch key {
		case "SeqNo":
			f.SeqNo = uint32(r.uint(1<<32 - 1)) //nolint:gosec // bounded
		case "Incarnation":
			f.Incarnation = uint32(r.uint(1<<32 - 1)) //nolint:gosec // bounded
		case "Node", "Name":
			f.Node = r.name()
		case "From":
			f.From = r.name()
		case "SourceNode":
			f.SourceNode = r.name()
		case "Addr", "Target":
			addr = r.raw()
		case "SourceAddr":
			source = r.raw()
		case "Port":
			port = r.uint(1<<16 - 1)
		case "SourcePort":
			sourcePort = r.uint(1<<16 - 1)
		case "Payload":
			f.Payload = r.raw()
		case "Meta":
			f.Meta = r.raw()
		case "Vsn":
			f.Vsn = r.raw()
		case "Nack":
			f.Nack = r.bool()
		case "Join":
			f.Join = r.bool()
		case "State":
			f.State = uint32(r.uint(1<<32 - 1)) //nolint:gosec // bounded
		case "Nodes":
			f.Nodes = r.uint(1<<32 - 1)
		case "UserStateLen":
			f.UserState = r.uint(1<<32 - 1)
		case "Error":
			f.Error = string(r.raw())
		default:
			r.skip()
		}
	}
	f.Addr, f.Source = addrPort(addr, port), addrPort(source, sourcePort)
	return f, !r.bad
}

// name reads a member's name. A name that no member has is read as "".
func (r *reader) name() string {
	b := r.raw()
	if len(b) > maxName {
		return ""
	}
	for _, c := range b {
		if c <= ' ' || c > '~' {
			return ""
		}
	}
	return string(b)
}

// addrPort returns the zero value for what nobody can send to.
func addrPort(ip []byte, port uint64) netip.AddrPort {
	addr, ok := netip.AddrFromSlice(ip)
	if !ok || port == 0 || addr.IsUnspecified() || addr.IsMulticast() {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(port)) //nolint:gosec // bounded where it was read
}

// write returns the message as memberlist would have written it. Memberlist decodes only what comes
// from here, so that nothing depends on its decoder and ours agreeing.
func write(kind byte, f fields) []byte {
	w := writer{b: make([]byte, 1, 160+len(f.Meta))}
	w.b[0] = kind
	switch kind {
	case ping:
		w.mapOf(5)
		w.uint("SeqNo", f.SeqNo)
		w.raw("Node", []byte(f.Node))
		w.source(f)
	case indirectPing:
		w.mapOf(8)
		w.uint("SeqNo", f.SeqNo)
		w.raw("Target", f.Addr.Addr().AsSlice())
		w.uint("Port", uint32(f.Addr.Port()))
		w.raw("Node", []byte(f.Node))
		w.bool("Nack", f.Nack)
		w.source(f)
	case ackResp, nackResp:
		w.mapOf(1)
		w.uint("SeqNo", f.SeqNo)
	case suspect, dead:
		w.mapOf(3)
		w.uint("Incarnation", f.Incarnation)
		w.raw("Node", []byte(f.Node))
		w.raw("From", []byte(f.From))
	case alive:
		w.mapOf(6)
		w.member("Node", f)
	case errResp:
		w.mapOf(1)
		w.raw("Error", []byte(f.Error[:min(len(f.Error), maxError)]))
	}
	return w.b
}

// source writes where the answer to a ping goes, 3 entries.
func (w *writer) source(f fields) {
	w.raw("SourceAddr", f.Source.Addr().AsSlice())
	w.uint("SourcePort", uint32(f.Source.Port()))
	w.raw("SourceNode", []byte(f.SourceNode))
}

// member writes what alive messages and states share, 6 entries.
func (w *writer) member(nameKey string, f fields) {
	w.uint("Incarnation", f.Incarnation)
	w.raw(nameKey, []byte(f.Node))
	w.raw("Addr", f.Addr.Addr().AsSlice())
	w.uint("Port", uint32(f.Addr.Port()))
	w.raw("Meta", f.Meta)
	w.raw("Vsn", f.Vsn)
}
