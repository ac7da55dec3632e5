package mesh

import (
	"fmt"
	"strings"

	"github.com/intramesh/mesh/internal/names"
)

// target is what an application dials: a service and one of its named ports.
type target struct{ service, port string }

func (t target) String() string { return joinTarget(t.service, t.port) }

func joinTarget(service, port string) string {
	if port == "" {
		return service
	}
	return service + ":" + port
}

// parseTarget reads "payments", "payments:admin" and "billing/invoices". A host of a URL
// can't hold a slash, so "billing.invoices" is the same service. The ports 80 and 443 that HTTP
// clients add by themselves mean the default port.
func parseTarget(address string) (target, error) {
	service, port, _ := strings.Cut(address, ":")
	if !strings.Contains(service, "/") && strings.Contains(service, ".") {
		service = strings.Join(strings.Split(service, "."), "/")
	}
	if port == "80" || port == "443" {
		port = ""
	}
	if err := names.CheckService(service); err != nil {
		return target{}, fmt.Errorf("address %q: %w", address, err)
	}
	if port != "" {
		if err := names.CheckPort(port); err != nil {
			return target{}, fmt.Errorf("address %q: %w", address, err)
		}
	}
	return target{service, port}, nil
}
