package consul_test

import (
	"log"

	"github.com/intramesh/mesh/discovery/consul"
)

func Example() {
	src, err := consul.New(consul.Config{
		URL:       "http://127.0.0.1:8500", // the agent's
		TokenFile: "/run/secrets/consul-token",
		Services: []consul.Service{
			{Service: "payments"},
			{Service: "billing/invoices", Name: "invoices", Tag: "mesh"},
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer src.Close()
	<-src.Synced()
	// mesh.Join(ctx, mesh.Config{…, Discovery: src})
}
