package dns

import (
	"bufio"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	// udpSize is what we take in one datagram: it passes unfragmented (dnsflagday.net/2020).
	udpSize = 1232
	// rounds is how often all servers are asked.
	rounds = 2
	// maxTargets bounds the SRV targets whose addresses are asked for.
	maxTargets = 256
	// maxStray bounds the datagrams that are no answer to what was asked.
	maxStray = 64
)

// A querier asks servers until one answers.
type querier struct {
	servers []netip.AddrPort
	timeout time.Duration
	v6      bool
}

// target is an SRV record and the addresses of its host.
type target struct {
	host             dnsmessage.Name
	priority, weight uint16
	port             uint16
	addrs            []netip.Addr
}

// services returns the targets of SRV records, the best priority first.
func (q *querier) services(ctx context.Context, name dnsmessage.Name) ([]target, time.Duration, error) {
	a, err := q.ask(ctx, name, dnsmessage.TypeSRV)
	if err != nil {
		return nil, 0, err
	}
	ttl := a.ttl
	var targets []target
	for _, r := range a.srv {
		if r.Target.String() == "." {
			continue // "the service is decidedly not available" (RFC 2782)
		}
		if len(targets) == maxTargets {
			return nil, 0, fmt.Errorf("%s has more than %d targets", name, maxTargets)
		}
		targets = append(targets, target{host: r.Target, priority: r.Priority, weight: r.Weight, port: r.Port})
	}
	slices.SortStableFunc(targets, func(a, b target) int { return cmp.Compare(a.priority, b.priority) })
	for i := range targets {
		t := &targets[i]
		if t.addrs = q.prefer(a.extra[canonical(t.host)]); len(t.addrs) > 0 {
			continue
		}
		var hostTTL time.Duration
		if t.addrs, hostTTL, err = q.hosts(ctx, t.host); err != nil {
			return nil, 0, err
		}
		ttl = min(ttl, hostTTL)
	}
	return targets, ttl, nil
}

// prefer returns the addresses of one family.
func (q *querier) prefer(addrs []netip.Addr) []netip.Addr {
	of := func(v6 bool) (some []netip.Addr) {
		for _, a := range addrs {
			if a.Is6() == v6 {
				some = append(some, a)
			}
		}
		return some
	}
	if some := of(q.v6); len(some) > 0 {
		return some
	}
	return of(!q.v6)
}

// hosts returns the addresses of a name: those of the preferred family, else the others.
func (q *querier) hosts(ctx context.Context, name dnsmessage.Name) ([]netip.Addr, time.Duration, error) {
	types := []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA}
	if q.v6 {
		slices.Reverse(types)
	}
	ttl := time.Duration(math.MaxInt64)
	for _, typ := range types {
		a, err := q.ask(ctx, name, typ)
		if err != nil {
			return nil, 0, err
		}
		if ttl = min(ttl, a.ttl); len(a.addrs) > 0 {
			return a.addrs, a.ttl, nil
		}
	}
	return nil, ttl, nil
}

// ask returns the first answer of a server. That there is no such record, or name, is one.
func (q *querier) ask(ctx context.Context, name dnsmessage.Name, typ dnsmessage.Type) (*answer, error) {
	var err error
	for range rounds {
		for _, server := range q.servers {
			var a *answer
			if a, err = q.exchange(ctx, server, dnsmessage.Question{Name: name, Type: typ, Class: dnsmessage.ClassINET}); err == nil {
				return a, nil
			}
			err = fmt.Errorf("%s %s at %s: %w", name, strings.TrimPrefix(typ.String(), "Type"), server, err)
			if ctx.Err() != nil {
				return nil, err
			}
		}
	}
	return nil, err
}

// exchange asks one server, over UDP and, when the answer does not fit, over TCP. Each question has a socket, and so a source
// port, and an ID of its own that can't be guessed (RFC 5452).
func (q *querier) exchange(ctx context.Context, server netip.AddrPort, question dnsmessage.Question) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, q.timeout)
	defer cancel()
	var id [2]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, err
	}
	m := query{id: binary.BigEndian.Uint16(id[:]), question: question}
	packed, err := m.pack()
	if err != nil {
		return nil, err
	}
	for _, network := range []string{"udp", "tcp"} {
		var a *answer
		if a, err = m.over(ctx, network, server, packed); !errors.Is(err, errTruncated) {
			return a, err
		}
	}
	return nil, err
}

// query is one question that was sent.
type query struct {
	id       uint16
	question dnsmessage.Question
}

func (m *query) pack() ([]byte, error) {
	b := dnsmessage.NewBuilder(make([]byte, 2, 512), dnsmessage.Header{ID: m.id, RecursionDesired: true})
	var opt dnsmessage.ResourceHeader
	err := errors.Join(
		b.StartQuestions(), b.Question(m.question), b.StartAdditionals(),
		opt.SetEDNS0(udpSize, dnsmessage.RCodeSuccess, false), b.OPTResource(opt, dnsmessage.OPTResource{}),
	)
	if err != nil {
		return nil, err
	}
	packed, err := b.Finish()
	if err != nil {
		return nil, err
	}
	binary.BigEndian.PutUint16(packed, uint16(len(packed)-2)) //nolint:gosec // a name has at most 255 bytes
	return packed, nil
}

// over sends the question, which packed holds behind two bytes of length, and reads the answer.
func (m *query) over(ctx context.Context, network string, server netip.AddrPort, packed []byte) (*answer, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	if network == "tcp" {
		return m.stream(c, packed)
	}
	if _, err := c.Write(packed[2:]); err != nil {
		return nil, err
	}
	buf := make([]byte, udpSize)
	for range maxStray {
		n, err := c.Read(buf)
		if err != nil {
			return nil, err
		}
		// What is not an answer to this question may be forged: the right one can still come.
		if a, err := m.parse(buf[:n]); !errors.Is(err, errStray) {
			return a, err
		}
	}
	return nil, errors.New("flooded with answers to other questions")
}

func (m *query) stream(c net.Conn, packed []byte) (*answer, error) {
	if _, err := c.Write(packed); err != nil {
		return nil, err
	}
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil, err
	}
	buf := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(c, buf); err != nil {
		return nil, err
	}
	a, err := m.parse(buf)
	if errors.Is(err, errTruncated) {
		err = errors.New("truncated although over TCP")
	}
	return a, err
}

const resolvConf = "/etc/resolv.conf"

// systemServers returns the first three name servers of resolv.conf(5), as many as the C library uses.
func systemServers() ([]netip.AddrPort, error) {
	f, err := os.Open(resolvConf)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	servers := parseServers(io.LimitReader(f, 64<<10))
	if len(servers) == 0 {
		return nil, fmt.Errorf("%s names no server", resolvConf)
	}
	return servers, nil
}

func parseServers(r io.Reader) []netip.AddrPort {
	var servers []netip.AddrPort
	for lines := bufio.NewScanner(r); lines.Scan() && len(servers) < 3; {
		f := strings.Fields(lines.Text())
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(f[1]); err == nil {
			servers = append(servers, netip.AddrPortFrom(a, 53))
		}
	}
	return servers
}
