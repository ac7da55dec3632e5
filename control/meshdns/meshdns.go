// Package meshdns answers DNS queries about the services of a mesh, for programs that are not its members: "payments.mesh." is
// where payments is.
//
// The names, below the zone:
//
//	payments                A, AAAA: the addresses of its instances; SRV: those of its default port
//	_admin._tcp.payments    SRV: those of its port "admin"
//	billing.invoices        the service billing/invoices
//	c0000201.addr           A: 192.0.2.1, as the targets of SRV records are called
//
// What lies between two such names exists, without records, as RFC 8020 wants it; only invoices, above billing.invoices, does not,
// unless there is such a service: the mesh finds services, and does not list them. A recursive server that minimises the names it asks for,
// and is strict about it (Unbound's qname-minimisation-strict; off by default), therefore finds no billing.invoices.
//
// Only instances that are ready are told; suspects when there are no others. What does not lie in the zone is refused: nothing is
// asked of other servers. Addresses in DNS are no protection: those who connect by them must check, by a certificate of
// the mesh, who answers.
package meshdns

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/intramesh/mesh/discovery"
	"github.com/miekg/dns"
	"golang.org/x/net/netutil"
)

const (
	// maxUDP is the largest datagram sent, whatever the client takes: it passes unfragmented (dnsflagday.net/2020).
	maxUDP = 1232
	// maxRecords bounds an answer; of more instances, some are drawn.
	maxRecords = 128
	// maxConns bounds TCP connections, idleTime how long one may be silent, maxQueries what one may ask.
	maxConns   = 256
	idleTime   = 5 * time.Second
	maxQueries = 128
)

// A Config says what is served. It is copied.
type Config struct {
	// Addr is where to listen, over UDP and TCP; port 0 takes one that is free for both.
	Addr netip.AddrPort
	// Zone is the domain of the names; empty means "mesh".
	Zone string
	// Discovery knows the services.
	Discovery discovery.Resolver
	// TTL is how long answers count, in whole seconds; 0 means 5 s.
	TTL time.Duration
	// Rate is how many answers over UDP a network of clients (an IPv4 /24, an IPv6 /56) gets a second; 0 means 200. Whoever asks more is told
	// to come over TCP, in answers no larger than the questions: so that nobody can have others flooded.
	Rate int
	// Logger gets what goes wrong; nil discards.
	Logger *slog.Logger
}

// A Server answers queries. It is safe for concurrent use.
type Server struct {
	cfg     Config
	zone    string // fully qualified, lower case
	ns      string // the name of addr; without an address when that is unspecified
	addr    netip.AddrPort
	limit   *limiter
	servers []*dns.Server
	wg      sync.WaitGroup
	once    sync.Once
}

// Listen starts a server. The caller closes it.
func Listen(ctx context.Context, cfg Config) (*Server, error) {
	s := &Server{cfg: cfg, zone: dns.CanonicalName(cmp.Or(cfg.Zone, "mesh"))}
	s.cfg.TTL = cmp.Or(cfg.TTL, 5*time.Second)
	s.limit = newLimiter(cmp.Or(cfg.Rate, 200))
	if s.cfg.Logger == nil {
		s.cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if _, ok := dns.IsDomainName(s.zone); !ok || s.zone == "." {
		return nil, fmt.Errorf("meshdns: %q is no zone", cfg.Zone)
	}
	if cfg.Discovery == nil {
		return nil, errors.New("meshdns: no Discovery")
	}
	pc, ln, err := listen(ctx, cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("meshdns: %w", err)
	}
	s.addr = netip.MustParseAddrPort(ln.Addr().String())
	s.ns = s.hostName(s.addr.Addr().Unmap())
	if s.addr.Addr().IsUnspecified() {
		s.ns = "ns." + s.zone
	}
	timeout := func() time.Duration { return idleTime }
	s.servers = []*dns.Server{
		{PacketConn: pc, Handler: dns.HandlerFunc(s.udp), UDPSize: maxUDP},
		{
			Listener: netutil.LimitListener(ln, maxConns), Handler: dns.HandlerFunc(s.tcp),
			ReadTimeout: idleTime, WriteTimeout: idleTime, IdleTimeout: timeout, MaxTCPQueries: maxQueries,
		},
	}
	for _, srv := range s.servers {
		started := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		s.wg.Go(func() {
			if err := srv.ActivateAndServe(); err != nil {
				s.cfg.Logger.Error("meshdns: stopped", "error", err)
			}
		})
		<-started // else Shutdown could come before
	}
	return s, nil
}

// listen takes one port for both protocols.
func listen(ctx context.Context, addr netip.AddrPort) (net.PacketConn, net.Listener, error) {
	var lc net.ListenConfig
	for try := 0; ; try++ {
		ln, err := lc.Listen(ctx, "tcp", addr.String())
		if err != nil {
			return nil, nil, err
		}
		pc, err := lc.ListenPacket(ctx, "udp", ln.Addr().String())
		if err == nil {
			return pc, ln, nil
		}
		_ = ln.Close()
		if addr.Port() != 0 || try == 100 {
			return nil, nil, err
		}
	}
}

// Addr returns where the server listens.
func (s *Server) Addr() netip.AddrPort { return s.addr }

// Close ends the server. It waits for answers under way, and may be called again.
func (s *Server) Close() error {
	var err error
	s.once.Do(func() {
		for _, srv := range s.servers {
			err = errors.Join(err, srv.Shutdown())
		}
		s.wg.Wait()
	})
	return err
}

func (s *Server) udp(w dns.ResponseWriter, q *dns.Msg) {
	var m *dns.Msg
	if from, err := netip.ParseAddrPort(w.RemoteAddr().String()); err == nil && s.limit.allow(from.Addr(), time.Now()) {
		m = s.answer(q)
		size := dns.MinMsgSize
		if opt := q.IsEdns0(); opt != nil {
			size = max(size, int(opt.UDPSize()))
		}
		m.Truncate(min(size, maxUDP))
	} else {
		m = new(dns.Msg).SetReply(q)
		m.Truncated = true
	}
	s.write(w, m)
}

func (s *Server) tcp(w dns.ResponseWriter, q *dns.Msg) { s.write(w, s.answer(q)) }

func (s *Server) write(w dns.ResponseWriter, m *dns.Msg) {
	if err := w.WriteMsg(m); err != nil {
		s.cfg.Logger.Debug("meshdns: could not answer", "to", w.RemoteAddr(), "error", err)
	}
}

// answer never asks anybody else.
func (s *Server) answer(q *dns.Msg) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	m.Authoritative, m.Compress = true, true
	if opt := q.IsEdns0(); opt != nil {
		m.SetEdns0(maxUDP, false)
		if opt.Version() != 0 {
			m.Rcode = dns.RcodeBadVers
			return m
		}
	}
	if q.Opcode != dns.OpcodeQuery { // the library lets NOTIFY pass
		m.Authoritative, m.Rcode = false, dns.RcodeNotImplemented
		return m
	}
	if len(q.Question) != 1 { // the library lets only one pass
		m.Rcode = dns.RcodeFormatError
		return m
	}
	question := q.Question[0]
	name := dns.CanonicalName(question.Name)
	meta := question.Qtype == dns.TypeANY || question.Qtype == dns.TypeAXFR || question.Qtype == dns.TypeIXFR
	if question.Qclass != dns.ClassINET || meta || !dns.IsSubDomain(s.zone, name) {
		m.Authoritative, m.Rcode = false, dns.RcodeRefused
		return m
	}
	known := true
	below := strings.TrimSuffix(strings.TrimSuffix(name, s.zone), ".")
	host, isAddr := strings.CutSuffix(below, ".addr")
	switch {
	case below == "":
		s.apex(m, question)
	case below == "addr": // has no records, but names below it (RFC 8020: they would not exist otherwise)
	case isAddr:
		known = s.host(m, question, host)
	default:
		known = s.service(m, question, below)
	}
	if !known {
		m.Rcode = dns.RcodeNameError
	}
	if len(m.Answer) == 0 {
		m.Ns = append(m.Ns, s.soa())
	}
	return m
}

func (s *Server) apex(m *dns.Msg, q dns.Question) {
	switch q.Qtype {
	case dns.TypeSOA:
		m.Answer = append(m.Answer, s.soa())
	case dns.TypeNS:
		if s.addr.Addr().IsUnspecified() {
			return // which of the machine's addresses clients know is not known here
		}
		m.Answer = append(m.Answer, &dns.NS{Hdr: s.header(q.Name, dns.TypeNS), Ns: s.ns})
		m.Extra = s.address(m.Extra, s.ns, dns.TypeNone, s.addr.Addr().Unmap())
	}
}

// soa also says for how long it counts that there is nothing (RFC 2308).
func (s *Server) soa() *dns.SOA {
	return &dns.SOA{
		Hdr: s.header(s.zone, dns.TypeSOA), Ns: s.ns, Mbox: "hostmaster." + s.zone,
		Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: s.ttl(),
	}
}

func (s *Server) ttl() uint32 { return uint32(max(s.cfg.TTL/time.Second, 1)) } //nolint:gosec // seconds, of an operator

func (s *Server) header(name string, typ uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: typ, Class: dns.ClassINET, Ttl: s.ttl()}
}

// address adds an A or AAAA record, if it is of the wanted type.
func (s *Server) address(rrs []dns.RR, name string, want uint16, a netip.Addr) []dns.RR {
	switch {
	case a.Is4() && want != dns.TypeAAAA:
		return append(rrs, &dns.A{Hdr: s.header(name, dns.TypeA), A: a.AsSlice()})
	case a.Is6() && want != dns.TypeA:
		return append(rrs, &dns.AAAA{Hdr: s.header(name, dns.TypeAAAA), AAAA: a.AsSlice()})
	}
	return rrs
}

func (s *Server) hostName(a netip.Addr) string {
	return hex.EncodeToString(a.AsSlice()) + ".addr." + s.zone
}

// host answers about the name that an address has.
func (s *Server) host(m *dns.Msg, q dns.Question, label string) (known bool) {
	raw, err := hex.DecodeString(label)
	a, ok := netip.AddrFromSlice(raw)
	if err != nil || !ok {
		return false
	}
	if q.Qtype == dns.TypeA || q.Qtype == dns.TypeAAAA {
		m.Answer = s.address(nil, q.Name, q.Qtype, a)
	}
	return true
}

// service answers about a service, "payments" or "_admin._tcp.payments", and about what lies between the two.
func (s *Server) service(m *dns.Msg, q dns.Question, name string) (known bool) {
	port := ""
	between := strings.HasPrefix(name, "_tcp.")
	if first, rest, ok := strings.Cut(name, "._tcp."); ok && strings.HasPrefix(first, "_") {
		port, name = first[1:], rest
	}
	all := s.cfg.Discovery.Lookup(strings.ReplaceAll(strings.TrimPrefix(name, "_tcp."), ".", "/")).Endpoints
	switch {
	case between:
		return slices.ContainsFunc(all, func(ep discovery.Endpoint) bool { return ep.Port != "" })
	case port == "":
		known = len(all) > 0 // with named ports alone it exists too, above them
	default:
		known = slices.ContainsFunc(all, func(ep discovery.Endpoint) bool { return ep.Port == port })
	}
	usable := ready(all, port)
	rand.Shuffle(len(usable), func(i, j int) { //nolint:gosec // spreads load, hides nothing
		usable[i], usable[j] = usable[j], usable[i]
	})
	usable = usable[:min(len(usable), maxRecords)]
	hosts := make(map[netip.Addr]bool)
	for _, ep := range usable {
		for i, ap := range ep.Addrs() {
			a := ap.Addr().Unmap()
			first := !hosts[a]
			hosts[a] = true
			switch target := s.hostName(a); {
			case q.Qtype == dns.TypeSRV: // to the later ones goes who can't reach any first one
				m.Answer = append(m.Answer, &dns.SRV{
					Hdr: s.header(q.Name, dns.TypeSRV), Priority: uint16(1 + i), Weight: max(ep.Weight, 1), Port: ap.Port(), Target: target,
				})
				if first {
					m.Extra = s.address(m.Extra, target, dns.TypeNone, a)
				}
			case first && (q.Qtype == dns.TypeA || q.Qtype == dns.TypeAAAA):
				m.Answer = s.address(m.Answer, q.Name, q.Qtype, a)
			}
		}
	}
	return known
}

// ready returns those who want traffic on a port; suspects if there are no others.
func ready(all []discovery.Endpoint, port string) []discovery.Endpoint {
	var sure, suspect []discovery.Endpoint
	for _, ep := range all {
		switch {
		case ep.Port != port || ep.State != discovery.Ready:
		case ep.Suspect:
			suspect = append(suspect, ep)
		default:
			sure = append(sure, ep)
		}
	}
	if len(sure) > 0 {
		return sure
	}
	return suspect
}
