package mesh

import (
	"context"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Two processes of one host need no TCP between them. On Linux, a mesh that listens at an address also listens at an abstract Unix
// socket named after it. Such names belong to a network namespace, as addresses do, so that both lead to the same process, and
// all above is the same: the handshake, the rules, what LocalAddr and RemoteAddr say. See unix(7).

const (
	// routeTime is how long it is believed that an address is this host's, doubtTime that it is not, or that what answered at its
	// socket was not the one expected.
	routeTime = 5 * time.Second
	doubtTime = time.Minute
	maxRoutes = 1024
	// unknownUser is what a user namespace shows for whoever is not in it. See user_namespaces(7).
	unknownUser = 65534
)

// sameHost connects processes of one host. A nil one connects none.
type sameHost struct {
	sockets systemNetwork
	callers atomic.Uint32

	mu     sync.Mutex
	routes map[netip.AddrPort]route // with port 0, of an address; with another, a doubt
}

// A route says from where this host sends to one of its own addresses, for no other.
type route struct {
	from  netip.Addr
	until time.Time
}

func newSameHost() *sameHost {
	if runtime.GOOS != "linux" || os.Geteuid() == unknownUser {
		return nil
	}
	return new(sameHost)
}

// socketName has our user in it, whose processes alone are believed.
func socketName(a netip.AddrPort) string {
	return "@intramesh/" + strconv.Itoa(os.Geteuid()) + "/" + a.String()
}

// listenSameHost opens a socket for callers on this host who dial the listener's address or, when that is all of them, the one announced.
func (m *Mesh) listenSameHost(ctx context.Context, l *listener, network string) {
	if m.sameHost == nil {
		return
	}
	l.at = addrPort(l.Addr())
	if l.at.Addr().IsUnspecified() {
		e, err := m.endpointOf(l)
		if is4 := e.Addr.Addr().Is4(); err != nil || is4 && network == "tcp6" || !is4 && l.at.Addr().Is4() {
			return
		}
		l.at = e.Addr
	}
	if !m.sameHost.source(l.at.Addr()).IsValid() {
		return
	}
	ln, err := m.sameHost.sockets.Listen(ctx, "unix", socketName(l.at))
	if err != nil { // somebody has taken the name, perhaps
		m.log.Warn("callers on this host have to use TCP", "addr", l.at.String(), "error", err)
		return
	}
	l.host = ln
}

// dial connects to the process of this host that listens at a. It returns nil if there is none.
func (s *sameHost) dial(ctx context.Context, a netip.AddrPort) *netConn {
	if s == nil || !s.source(a.Addr()).IsValid() {
		return nil
	}
	if _, doubted := s.recall(a); doubted {
		return nil
	}
	c, err := s.sockets.DialContext(ctx, "unix", socketName(a))
	if err != nil {
		return nil
	}
	n := s.conn(c, a)
	if n != nil {
		n.local, n.remote = n.remote, n.local
	}
	return n
}

// conn gives a connection at the socket of a the addresses that TCP would give the listener's end, but for the caller's port, which is a number
// of our own. It returns nil when the other end is another user's: anybody can take a name, and TLS does not tell who passes on, or holds
// back, what we say.
func (s *sameHost) conn(c net.Conn, a netip.AddrPort) *netConn {
	from := s.source(a.Addr())
	if !from.IsValid() || !ofOurUser(c) {
		_ = c.Close() // not for us
		return nil
	}
	const first, end = 1 << 10, 1 << 15 // neither privileged nor what Linux gives to callers
	return &netConn{
		Conn: c, local: &net.TCPAddr{IP: a.Addr().AsSlice(), Port: int(a.Port())},
		remote: &net.TCPAddr{IP: from.AsSlice(), Port: first + int(s.callers.Add(1)%(end-first))},
	}
}

// source returns the address from which this host sends to one of its own. For any other it returns none, and for some of several in one
// subnet: these are reached by TCP.
func (s *sameHost) source(a netip.Addr) netip.Addr {
	at := netip.AddrPortFrom(a, 0)
	if from, ok := s.recall(at); ok {
		return from
	}
	from := facingAddr(context.Background(), netip.AddrPortFrom(a, 1).String())
	if from != a && !a.IsLoopback() {
		from = netip.Addr{}
	}
	s.remember(at, from)
	return from
}

func (s *sameHost) recall(a netip.AddrPort) (netip.Addr, bool) {
	s.mu.Lock()
	r, ok := s.routes[a]
	s.mu.Unlock()
	return r.from, ok && time.Now().Before(r.until)
}

func (s *sameHost) remember(a netip.AddrPort, from netip.Addr) {
	t := routeTime
	if !from.IsValid() {
		t = doubtTime
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.routes == nil || len(s.routes) >= maxRoutes {
		s.routes = make(map[netip.AddrPort]route)
	}
	s.routes[a] = route{from, time.Now().Add(t)}
}

// doubt has a be dialed by TCP for a while.
func (s *sameHost) doubt(a netip.AddrPort) { s.remember(a, netip.Addr{}) }
