package dns_test

import (
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"

	miekg "github.com/miekg/dns"
)

// A server is a real DNS server on loopback, over UDP and TCP, whose zone the test writes.
type server struct {
	addr netip.AddrPort

	mu      sync.Mutex
	records func() []string                        // of the zone, in master file form
	mangle  func(net.Addr, *miekg.Msg)             // may change each answer
	asked   map[string]int                         // by network
	before  func(miekg.ResponseWriter, *miekg.Msg) // before each answer
}

func serve(t testing.TB, records ...string) *server {
	t.Helper()
	s := &server{records: func() []string { return records }, asked: make(map[string]int)}
	s.start(t, netip.MustParseAddrPort("127.0.0.1:0"))
	return s
}

// start listens at addr until the test ends, or stop is called.
func (s *server) start(t testing.TB, addr netip.AddrPort) (stop func()) {
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
	s.addr = ln.Addr().(*net.TCPAddr).AddrPort()
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

// set replaces the zone.
func (s *server) set(records ...string) {
	s.change(func() { s.records = func() []string { return records } })
}

// change changes the server between two answers.
func (s *server) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *server) count(network string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[network]
}

// ServeDNS answers from the zone as a recursive server does: aliases are followed.
func (s *server) ServeDNS(w miekg.ResponseWriter, q *miekg.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked[w.LocalAddr().Network()]++
	if s.before != nil {
		s.before(w, q)
	}
	m := new(miekg.Msg).SetReply(q)
	var zone []miekg.RR
	for _, text := range s.records() {
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
	if s.mangle != nil {
		s.mangle(w.LocalAddr(), m)
	}
	if w.LocalAddr().Network() == "udp" {
		m.Truncate(1232)
	}
	if err := w.WriteMsg(m); err != nil {
		panic(err)
	}
}

// srvRecords are the SRV record of an endpoint and its host's.
func srvRecords(name string, addr netip.AddrPort, weight uint16) []string {
	host := strings.ReplaceAll("h-"+addr.Addr().String(), ".", "-") + ".example."
	return []string{
		name + " 1 IN SRV 0 " + strconv.Itoa(int(weight)) + " " + strconv.Itoa(int(addr.Port())) + " " + host,
		host + " 1 IN A " + addr.Addr().String(),
	}
}
