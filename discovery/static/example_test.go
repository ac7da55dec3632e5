package static_test

import (
	"fmt"
	"net/netip"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/static"
)

func Example() {
	dir := static.New(
		discovery.Endpoint{Service: "payments", Addr: netip.MustParseAddrPort("192.0.2.1:8443")},
		discovery.Endpoint{Service: "payments", Addr: netip.MustParseAddrPort("192.0.2.2:8443"), State: discovery.Draining},
	)
	for _, ep := range dir.Lookup("payments").Endpoints {
		fmt.Println(ep.Addr, ep.State)
	}

	// Output:
	// 192.0.2.1:8443 ready
	// 192.0.2.2:8443 draining
}
