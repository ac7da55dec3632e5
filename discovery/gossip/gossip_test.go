package gossip_test

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/intramesh/mesh/discovery/discoverytest"
	"github.com/intramesh/mesh/discovery/gossip"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var loopback = netip.MustParseAddrPort("127.0.0.1:0")

func key(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

// config is for a member on loopback sockets, with the times of a test.
func config(seeds ...string) gossip.Config {
	return gossip.Config{
		BindAddr: loopback, Keys: [][]byte{key(1)}, Seeds: seeds,
		ProbeInterval: 200 * time.Millisecond, GossipInterval: 20 * time.Millisecond,
	}
}

func join(t testing.TB, cfg gossip.Config) *gossip.Member {
	t.Helper()
	m, err := gossip.Join(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func TestConformance(t *testing.T) {
	discoverytest.Run(t, func(*testing.T) discoverytest.Harness {
		var seeds []string
		return discoverytest.Harness{Join: func(t testing.TB) discoverytest.Member {
			m := join(t, config(seeds...))
			seeds = append(seeds, m.Addr().String())
			return discoverytest.Member{Resolver: m, Registrar: m, Instance: m.Instance(), Leave: m.Leave}
		}}
	})
}
