package meshtest

import (
	"context"
	"log/slog"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/static"
	"github.com/intramesh/mesh/identity"
	"github.com/intramesh/mesh/internal/memnet"
	"github.com/intramesh/mesh/internal/testca"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// TrustDomain is the trust domain of every [Net]: payments is spiffe://test.mesh/payments.
const TrustDomain = "test.mesh"

// A Net is a mesh in memory. It is safe for concurrent use. It has no goroutines of its own
// and need not be closed.
type Net struct {
	ca    *testca.CA
	names *static.Directory
	rules *rules
	wires *memnet.Network

	mu      sync.Mutex
	addr    netip.Addr // the last one given out
	joined  int
	members map[*mesh.Mesh]*member
}

// New returns a mesh without members, with these rules: see [Net.SetRules]. Without rules
// everything is denied.
func New(t testing.TB, rules ...string) *Net {
	t.Helper()
	td := spiffeid.RequireTrustDomainFromString(TrustDomain)
	ca, err := testca.New(td)
	if err != nil {
		t.Fatalf("meshtest: %v", err)
	}
	n := &Net{
		ca: ca, names: static.New(), rules: newRules(td), wires: memnet.New(),
		addr: netip.MustParseAddr("10.0.0.0"), members: make(map[*mesh.Mesh]*member),
	}
	n.SetRules(t, rules...)
	return n
}

// SetRules replaces all rules, and with them the version that a [mesh.DeniedError] tells: 1 is that
// of [New]. Each string holds any number of documents in JSON. When it returns, new
// connections and requests are decided by these rules; open connections that they deny are being cut. It
// ends the test when the rules are not valid.
func (n *Net) SetRules(t testing.TB, rules ...string) {
	t.Helper()
	if err := n.rules.set(rules); err != nil {
		t.Fatalf("meshtest: %v", err)
	}
}

// Join returns a new instance of a service, with an address of its own (10.0.0.1 and so on). It is
// closed at the end of the test t. What it logs is shown with the test's output.
func (n *Net) Join(t testing.TB, service string) *mesh.Mesh {
	t.Helper()
	return n.JoinConfig(t, mesh.Config{Service: service})
}

// JoinConfig is Join with other settings. The fields Identity, Discovery, Policy, Network and
// Logger are filled in where they are nil.
func (n *Net) JoinConfig(t testing.TB, cfg mesh.Config) *mesh.Mesh {
	t.Helper()
	mem := n.newMember()
	if cfg.Identity == nil {
		cfg.Identity = n.Identity(t, cfg.Service)
	}
	if cfg.Discovery == nil {
		cfg.Discovery = mem
	}
	if cfg.Policy == nil {
		cfg.Policy = n.rules
	}
	if cfg.Network == nil {
		cfg.Network = mem.host
	}
	if cfg.Logger == nil {
		h := slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})
		cfg.Logger = slog.New(h).With("instance", mem.names.Instance())
	}
	m, err := mesh.Join(t.Context(), cfg)
	if err != nil {
		t.Fatalf("meshtest: join %s: %v", cfg.Service, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.members[m] = mem
	t.Cleanup(func() {
		if err := m.Close(); err != nil && !mem.dead.Load() {
			t.Errorf("meshtest: close %s: %v", cfg.Service, err)
		}
		_ = mem.names.Close()
	})
	return m
}

// Kill does to a member what SIGKILL does to its process: its connections are reset, its ports
// refuse, and nobody is told. Discovery still knows it, as it does for the first seconds after a real
// crash. The Mesh is closed when it returns.
func (n *Net) Kill(t testing.TB, m *mesh.Mesh) {
	t.Helper()
	mem := n.member(t, m)
	mem.dead.Store(true)
	mem.host.Kill()
	_ = m.Close() // it can say no farewell
}

// Freeze takes a member off the network, as a pulled cable does: what it sends and what is sent
// to it does not arrive, and nobody gets an error before some timeout of theirs. Discovery still
// knows it. The returned function puts it back.
func (n *Net) Freeze(t testing.TB, m *mesh.Mesh) (thaw func()) {
	t.Helper()
	return n.member(t, m).host.Freeze()
}

func (n *Net) member(t testing.TB, m *mesh.Mesh) *member {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	mem := n.members[m]
	if mem == nil {
		t.Fatal("meshtest: the mesh did not join by this Net")
	}
	return mem
}

// Identity issues a certificate to a service. It is for peers that are not members: a TLS
// client without this library, say.
func (n *Net) Identity(t testing.TB, service string) identity.Source {
	t.Helper()
	src, err := n.ca.Source(service)
	if err != nil {
		t.Fatalf("meshtest: %v", err)
	}
	return src
}

// Network returns a new host of the network, with an address of its own, for what is not a
// member.
func (n *Net) Network() mesh.Network { return n.newHost() }

func (n *Net) newHost() *memnet.Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.addr = n.addr.Next()
	return n.wires.Host(n.addr)
}

func (n *Net) newMember() *member {
	host := n.newHost()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.joined++
	return &member{host: host, names: n.names.Member("instance-" + strconv.Itoa(n.joined))}
}

// A member is what one process has of the mesh. The dead announce nothing, not even that
// they leave.
type member struct {
	host  *memnet.Host
	names *static.Member
	dead  atomic.Bool
}

func (m *member) Lookup(service string) discovery.Snapshot { return m.names.Lookup(service) }

func (m *member) Register(ctx context.Context, ep discovery.Endpoint) error {
	if m.dead.Load() {
		return nil
	}
	return m.names.Register(ctx, ep)
}

func (m *member) Deregister(ctx context.Context, ep discovery.Endpoint) error {
	if m.dead.Load() {
		return nil
	}
	return m.names.Deregister(ctx, ep)
}
