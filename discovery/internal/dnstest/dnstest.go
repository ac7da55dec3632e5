// Package dnstest is a DNS server for tests.
package dnstest

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	miekg "github.com/miekg/dns"
)

// A Server is a real DNS server on loopback, over UDP and TCP, whose zone the test writes.
type Server struct {
	// Addr is where it was started last.
	Addr netip.AddrPort

	mu sync.Mutex
	// Records are those of the zone, in master file form; Mangle may change each answer, and Before is called before each; either
	// may be nil. All three are set within Change.
	Records func() []string
	Mangle  func(net.Addr, *miekg.Msg)
	Before  func(miekg.ResponseWriter, *miekg.Msg)
	asked   map[string]int // by network
}

// Serve starts a server on a free port, with these records in master file form.
func Serve(t testing.TB, records ...string) *Server {
	t.Helper()
	s := &Server{Records: func() []string { return records }}
	s.Start(t, netip.MustParseAddrPort("127.0.0.1:0"))
	return s
}

// Start listens at addr until the test ends, or stop is called.
func (s *Server) Start(t testing.TB, addr netip.AddrPort) (stop func()) {
	t.Helper()
	pc, ln, err := listen(addr)
	for range 100 {
		if err == nil {
			break
		}
		pc, ln, err = listen(addr) // the port was free for one of the two
	}
	if err != nil {
		t.Fatal(err)
	}
	s.Addr = ln.Addr().(*net.TCPAddr).AddrPort()
	var wg sync.WaitGroup
	var stops []func() error
	for _, srv := range []*miekg.Server{{PacketConn: pc, Handler: s}, {Listener: ln, Handler: s}} {
		up := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(up) }
		wg.Go(func() {
			if err := srv.ActivateAndServe(); err != nil {
				t.Error(err)
			}
		})
		<-up
		stops = append(stops, srv.Shutdown)
	}
	stop = sync.OnceFunc(func() {
		for _, f := range stops {
			if err := f(); err != nil {
				t.Error(err)
			}
		}
		wg.Wait()
	})
	t.Cleanup(stop)
	return stop
}

func listen(addr netip.AddrPort) (net.PacketConn, net.Listener, error) {
	ln, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(addr))
	if err != nil {
		return nil, nil, err
	}
	pc, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(ln.Addr().(*net.TCPAddr).AddrPort()))
	if err != nil {
		return nil, nil, errors.Join(err, ln.Close())
	}
	return pc, ln, nil
}

// Set replaces the zone.
func (s *Server) Set(records ...string) {
	s.Change(func() { s.Records = func() []string { return records } })
}

// Change changes the server between two answers.
func (s *Server) Change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// Count tells how many questions came over a network, "udp" or "tcp".
func (s *Server) Count(network string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[network]
}

// ServeDNS answers from the zone as a recursive server does: aliases are followed.
func (s *Server) ServeDNS(w miekg.ResponseWriter, q *miekg.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked == nil {
		s.asked = make(map[string]int)
	}
	s.asked[w.LocalAddr().Network()]++
	if s.Before != nil {
		s.Before(w, q)
	}
	m := new(miekg.Msg).SetReply(q)
	var zone []miekg.RR
	for _, text := range s.Records() {
		rr, err := miekg.NewRR(text)
		if err != nil {
			panic(err)
		}
		zone = append(zone, rr)
	}
	known := false
	name := q.Question[0].Name
	for range 10 {
		alias := ""
		for _, rr := range zone {
			if !strings.EqualFold(rr.Header().Name, name) {
				continue
			}
			known = true
			if c, ok := rr.(*miekg.CNAME); ok {
				alias, m.Answer = c.Target, append(m.Answer, rr)
			} else if rr.Header().Rrtype == q.Question[0].Qtype {
				m.Answer = append(m.Answer, rr)
			}
		}
		if name = alias; name == "" {
			break
		}
	}
	if !known {
		m.Rcode = miekg.RcodeNameError
	}
	if len(m.Answer) == 0 {
		soa, err := miekg.NewRR("example. 3600 IN SOA ns.example. root.example. 1 2 3 4 1800")
		if err != nil {
			panic(err)
		}
		m.Ns = append(m.Ns, soa)
	}
	if s.Mangle != nil {
		s.Mangle(w.LocalAddr(), m)
	}
	if w.LocalAddr().Network() == "udp" {
		m.Truncate(1232)
	}
	if err := w.WriteMsg(m); err != nil {
		panic(err)
	}
}
