package discovery_test

import (
	"fmt"
	"net/netip"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/static"
)

func ExampleMerge() {
	at := netip.MustParseAddrPort
	gossip := static.New( // stands for one that knows better
		discovery.Endpoint{Service: "payments", Addr: at("192.0.2.1:8443"), State: discovery.Draining},
	)
	list := static.New(
		discovery.Endpoint{Service: "payments", Addr: at("192.0.2.1:8443"), Zone: "eu-west-1a"},
		discovery.Endpoint{Service: "payments", Addr: at("192.0.2.2:8443"), Zone: "eu-west-1b"},
	)
	all := discovery.Merge(gossip, list)
	defer all.Close()
	for _, ep := range all.Lookup("payments").Endpoints {
		fmt.Println(ep.Addr, ep.Zone, ep.State)
	}

	// Output:
	// 192.0.2.1:8443 eu-west-1a draining
	// 192.0.2.2:8443 eu-west-1b ready
}
