package dns_test

import (
	"context"
	"log"

	"github.com/intramesh/mesh/discovery/dns"
)

func Example() {
	src, err := dns.New(dns.Config{Services: []dns.Service{
		{Service: "payments", Name: "_mesh._tcp.payments.example.net"},                     // SRV
		{Service: "billing/invoices", Name: "invoices.billing.example.net", TCPPort: 8443}, // A and AAAA
	}})
	if err != nil {
		log.Fatal(err)
	}
	defer src.Close()
	ctx := context.Background()
	select {
	case <-src.Synced():
	case <-ctx.Done():
	}
	// mesh.Join(ctx, mesh.Config{…, Discovery: src})
}
