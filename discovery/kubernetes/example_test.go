package kubernetes_test

import (
	"log"

	"github.com/intramesh/mesh/discovery/kubernetes"
)

// In a pod whose service account may list and watch endpointslices.
func Example() {
	src, err := kubernetes.New(kubernetes.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer src.Close()
	<-src.Synced()
	// mesh.Join(ctx, mesh.Config{…, Discovery: src})
}
