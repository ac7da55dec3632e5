package gossip_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/netip"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/gossip"
)

func Example() {
	ctx := context.Background()
	key := make([]byte, 32)
	_, _ = rand.Read(key) // in earnest the control plane hands it out

	server, err := gossip.Join(ctx, gossip.Config{BindAddr: netip.MustParseAddrPort("127.0.0.1:0"), Keys: [][]byte{key}})
	if err != nil {
		panic(err)
	}
	defer func() { _ = server.Close() }()
	err = server.Register(ctx, discovery.Endpoint{Service: "payments", Addr: netip.MustParseAddrPort("127.0.0.1:8443")})
	if err != nil {
		panic(err)
	}

	client, err := gossip.Join(ctx, gossip.Config{
		BindAddr: netip.MustParseAddrPort("127.0.0.1:0"), Keys: [][]byte{key},
		Seeds: []string{server.Addr().String()},
	})
	if err != nil {
		panic(err)
	}
	defer func() { _ = client.Close() }()
	for {
		now := client.Lookup("payments")
		if len(now.Endpoints) > 0 {
			fmt.Println(now.Endpoints[0].Addr)
			break
		}
		<-now.Changed
	}

	// Output: 127.0.0.1:8443
}
