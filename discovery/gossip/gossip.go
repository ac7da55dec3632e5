// Package gossip is discovery without a server: the members tell each other who is there, by
// SWIM (Das, Gupta, Motivala, DSN 2002) with Lifeguard's refinements (Dadgar, Phillips,
// Currey, 2018), as hashicorp/memberlist implements them.
//
// # Trust
//
// Every packet and stream is encrypted with the pool's keys: who has none can neither read nor
// speak, nor can a pool with another [Config.Label]. What a member announces is signed with the key of its
// certificate ([Config.Identity]), and each member can announce its own service alone. The signature is looked at once
// for each record, in the background, when somebody looks the service up: until then the endpoint is
// suspect, and so it stays when the process at the member's address can't show that certificate. Who lies
// is left out, counted and logged; see [Member.Refused].
//
// A member of the pool can still lie about whether others live. That is why what is said here is only a hint where to
// connect, and who answers is decided by the certificate it shows, and why a member that others call dead
// keeps its endpoints, marked suspect, for [Config.SuspectTTL].
//
// # Joining
//
// [Join] contacts the seeds and the peers remembered in [Config.Dir]. Whoever can't be reached
// is tried again for as long as the member lives, which also heals a pool that a
// partition has split. Any member can be a seed; a member without seeds waits for others.
//
// # Observing
//
// A process that only looks services up need not be a member: [Observe] follows those that it asks for through two members. It needs no key
// of the pool. Any member with an identity serves observers: 256 at most, 64 of one host. [Participate] chooses by the size of the pool.
package gossip

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/intramesh/mesh/discovery/gossip/internal/tally"
	"github.com/intramesh/mesh/discovery/gossip/internal/transport"
	"github.com/intramesh/mesh/internal/pace"
)

// A Network makes the sockets; nil in [Config] means the operating system's. It is safe for
// concurrent use.
type Network interface {
	// DialContext opens a stream to "ip:port"; network is "tcp".
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
	// Listen accepts streams; network is "tcp". Its Addr prints as "ip:port".
	Listen(ctx context.Context, network, address string) (net.Listener, error)
	// ListenPacket sends and receives packets; network is "udp". It takes *net.UDPAddr, and
	// the addresses that it returns print as "ip:port".
	ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error)
}

// systemNetwork is the operating system's.
type systemNetwork struct {
	net.Dialer
	net.ListenConfig
}

// Config is what [Join] needs. Only Keys is required.
type Config struct {
	// Instance names this process in the pool. It must be unique for each start of a
	// process, at most 63 printable characters. The default is random.
	Instance string
	// BindAddr is where to listen, for UDP and TCP alike. Port 0 is a port that is free for
	// both. The default is all addresses.
	BindAddr netip.AddrPort
	// Advertise is the IP that others reach this process at. The default is one of AdvertiseNetwork, or that of BindAddr,
	// or if that is unspecified, an address of a local interface, private ones first.
	Advertise netip.Addr
	// AdvertiseNetwork chooses among this host's addresses when Advertise is not set: those in a network, "10.0.0.0/8", or
	// those of an interface, "eth1".
	AdvertiseNetwork string
	// Keys are the pool's AES-256 keys, 32 bytes each. The first one encrypts, all decrypt; see [Member.SetKeys].
	Keys [][]byte
	// Identity signs what this member announces, and makes streams mutual TLS. Then only members of its trust domain
	// take part, each can announce its own service alone, and endpoints are suspect until the member has shown the
	// certificate that allows them. Nil leaves all that out: whoever has a key may announce what it wants.
	Identity Identity
	// Label keeps pools apart that could reach each other. It is not secret.
	Label string
	// Seeds are members to join through, looked up at every attempt: "host:port", or, as "_gossip._tcp.mesh.example.org", the SRV
	// records of a name (RFC 2782), whose hosts are tried by priority and weight. Of each name 16 addresses count.
	Seeds []string
	// Resolver looks seeds up; nil means the system's.
	Resolver *net.Resolver
	// Zone is the locality announced for endpoints that have none.
	Zone string
	// Dir is where peers are remembered, so that this process finds its way back when no
	// seed is left. It is made if missing. "" remembers them in memory only.
	Dir string
	// Logger gets what happens to the pool; nil discards it.
	Logger *slog.Logger
	// Network makes the sockets; nil means the operating system's.
	Network Network

	// JoinTimeout bounds how long Join waits for the first seed; the default is 3 s.
	JoinTimeout time.Duration
	// SuspectTTL is how long endpoints of a member that seems dead are kept, marked
	// suspect; the default is 60 s.
	SuspectTTL time.Duration
	// RejoinInterval is the time between attempts to reach seeds and remembered peers that are not
	// members; the default is 10 s. Seeds' names are looked up less often while others are there.
	RejoinInterval time.Duration
	// ProbeInterval is the time between probes of other members. A member that stops is
	// held dead after about five of them in a small pool, ten among thousands. It has to be longer than a packet takes to
	// the most remote member and back. The default is 300 ms.
	ProbeInterval time.Duration
	// GossipInterval is the time between packets with news; the default is 100 ms.
	GossipInterval time.Duration
	// SyncInterval is the time between comparisons with a random member of what both have heard; they are more
	// frequent after the start and in small pools. The default is 30 s.
	SyncInterval time.Duration

	refused *tally.Tally // nil makes one
}

// withDefaults returns a copy that is complete, or says what is wrong.
func (c Config) withDefaults() (Config, error) {
	if c.Instance == "" {
		c.Instance = strings.ToLower(rand.Text()[:13])
	}
	if len(c.Instance) > 63 || strings.ContainsFunc(c.Instance, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return c, fmt.Errorf("instance %.80q: want at most 63 printable characters", c.Instance)
	}
	if len(c.Keys) > MaxKeys {
		return c, fmt.Errorf("%d keys, of at most %d", len(c.Keys), MaxKeys)
	}
	if len(c.Label) > 255 {
		return c, errors.New("label is longer than 255 bytes")
	}
	for _, seed := range c.Seeds {
		if err := CheckSeed(seed); err != nil {
			return c, err
		}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Network == nil {
		c.Network = new(systemNetwork)
	}
	if c.Resolver == nil {
		c.Resolver = new(net.Resolver)
	}
	for _, d := range []struct {
		value *time.Duration
		or    time.Duration
	}{
		{&c.JoinTimeout, pace.JoinTimeout},
		{&c.SuspectTTL, pace.SuspectTTL},
		{&c.RejoinInterval, pace.RejoinInterval},
		{&c.ProbeInterval, pace.ProbeInterval},
		{&c.GossipInterval, pace.GossipInterval},
		{&c.SyncInterval, pace.SyncInterval},
	} {
		if *d.value <= 0 {
			*d.value = d.or
		}
	}
	return c, nil
}

// advertised chooses the IP that others are told. Memberlist would run the ip command for that.
func (c Config) advertised() (netip.Addr, error) {
	if c.Advertise.IsValid() {
		if c.Advertise.IsUnspecified() {
			return netip.Addr{}, fmt.Errorf("advertise %v: others can't connect there", c.Advertise)
		}
		return c.Advertise.Unmap(), nil
	}
	if ip := c.BindAddr.Addr(); c.AdvertiseNetwork == "" && ip.IsValid() && !ip.IsUnspecified() {
		return ip.Unmap(), nil
	}
	within, addrs, err := c.candidates()
	if err != nil {
		return netip.Addr{}, err
	}
	best, rank := netip.Addr{}, 0
	for _, a := range addrs {
		prefix, err := netip.ParsePrefix(a.String())
		if err != nil {
			continue // not an IP network
		}
		if ip := prefix.Addr(); (!within.IsValid() || within.Contains(ip)) && usefulness(ip, c.BindAddr.Addr()) > rank {
			best, rank = ip, usefulness(ip, c.BindAddr.Addr())
		}
	}
	if rank == 0 && c.AdvertiseNetwork != "" {
		return netip.Addr{}, fmt.Errorf("AdvertiseNetwork %q: no address of this host that others can use is in it", c.AdvertiseNetwork)
	}
	if rank == 0 {
		return netip.Addr{}, errors.New("no interface has an address to advertise: set Advertise")
	}
	return best, nil
}

// candidates are this host's addresses, and the network that the one to advertise must be in, if any.
func (c Config) candidates() (within netip.Prefix, addrs []net.Addr, err error) {
	if c.AdvertiseNetwork == "" {
		addrs, err = net.InterfaceAddrs()
		return within, addrs, err
	}
	if within, err = netip.ParsePrefix(c.AdvertiseNetwork); err == nil {
		addrs, err = net.InterfaceAddrs()
		return within.Masked(), addrs, err
	}
	i, err := net.InterfaceByName(c.AdvertiseNetwork)
	if err != nil {
		return within, nil, fmt.Errorf("AdvertiseNetwork %q is neither a network nor an interface: %w", c.AdvertiseNetwork, err)
	}
	addrs, err = i.Addrs()
	return netip.Prefix{}, addrs, err
}

// usefulness ranks an address of ours, 0 if it is of no use to others.
func usefulness(ip, bind netip.Addr) int {
	switch {
	case bind.Is4() && !ip.Is4() || ip.IsLinkLocalUnicast():
		return 0
	case ip.IsLoopback():
		return 1 // a host without network
	case ip.IsPrivate() && ip.Is4():
		return 5
	case ip.IsPrivate():
		return 4
	case ip.Is4():
		return 3
	}
	return 2
}

// listen opens the sockets.
func (c Config) listen(ctx context.Context) (net.PacketConn, net.Listener, netip.AddrPort, error) {
	ip, err := c.advertised()
	if err != nil {
		return nil, nil, netip.AddrPort{}, err
	}
	packets, ln, err := transport.Listen(ctx, c.BindAddr, c.Network)
	if err != nil {
		return nil, nil, netip.AddrPort{}, err
	}
	bound, err := netip.ParseAddrPort(ln.Addr().String())
	if err != nil {
		return nil, nil, netip.AddrPort{}, errors.Join(err, packets.Close(), ln.Close())
	}
	return packets, ln, netip.AddrPortFrom(ip, bound.Port()), nil
}
