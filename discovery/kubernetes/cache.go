package kubernetes

import (
	"cmp"
	"net/netip"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/internal/names"
)

// slice is what we read of an EndpointSlice.
type slice struct {
	Metadata struct {
		Namespace       string            `json:"namespace"`
		Name            string            `json:"name"`
		ResourceVersion string            `json:"resourceVersion"`
		Labels          map[string]string `json:"labels"`
	} `json:"metadata"`
	AddressType string     `json:"addressType"`
	Endpoints   []endpoint `json:"endpoints"`
	Ports       []struct {
		Name     string  `json:"name"`
		Port     *uint16 `json:"port"` // null is all ports
		Protocol string  `json:"protocol"`
	} `json:"ports"`
}

type endpoint struct {
	Addresses  []string `json:"addresses"`
	Conditions struct {
		Ready       *bool `json:"ready"` // null is unknown, which is to be taken as true
		Terminating *bool `json:"terminating"`
	} `json:"conditions"`
	TargetRef *struct {
		Kind string `json:"kind"`
		Name string `json:"name"`
		UID  string `json:"uid"`
	} `json:"targetRef"`
	Zone string `json:"zone"`
}

const serviceLabel = "kubernetes.io/service-name"

// id is the name of a slice.
type id struct{ namespace, name string }

// entry is what a slice says.
type entry struct {
	service   string // "" for one that is not ours
	endpoints []discovery.Endpoint
}

// cache holds all slices. It belongs to the goroutine that watches.
type cache struct {
	cfg     *Config
	entries map[id]entry
	of      map[string]map[id]bool // the slices of each service
	stale   bool
}

func newCache(cfg *Config) *cache { return &cache{cfg: cfg} }

// replace takes a whole list and returns all endpoints.
func (c *cache) replace(all []slice) []discovery.Endpoint {
	c.entries, c.of = make(map[id]entry, len(all)), make(map[string]map[id]bool)
	for i := range all {
		c.put(&all[i])
	}
	return c.all()
}

// apply takes a change and returns the services that it touches.
func (c *cache) apply(e event) map[string][]discovery.Endpoint {
	touched := []string{c.remove(e.object.id())}
	if e.kind != deleted {
		touched = append(touched, c.put(&e.object))
	}
	changes := make(map[string][]discovery.Endpoint)
	for _, service := range touched {
		if service != "" {
			changes[service] = c.service(service)
		}
	}
	return changes
}

// suspect says whether everything is to be held suspect, and reports whether that is new.
func (c *cache) suspect(now bool) bool {
	was := c.stale
	c.stale = now
	return was != now
}

func (c *cache) all() []discovery.Endpoint {
	var all []discovery.Endpoint
	for service := range c.of {
		all = append(all, c.service(service)...)
	}
	return all
}

func (s *slice) id() id { return id{s.Metadata.Namespace, s.Metadata.Name} }

func (c *cache) put(s *slice) (service string) {
	service = c.name(s)
	if service == "" {
		return ""
	}
	c.entries[s.id()] = entry{service, c.endpoints(s, service)}
	if c.of[service] == nil {
		c.of[service] = make(map[id]bool)
	}
	c.of[service][s.id()] = true
	return service
}

func (c *cache) remove(key id) (service string) {
	service = c.entries[key].service
	delete(c.entries, key)
	if delete(c.of[service], key); len(c.of[service]) == 0 {
		delete(c.of, service)
	}
	return service
}

// name returns what the slice's service is called in the mesh, "" if it has none.
func (c *cache) name(s *slice) string {
	name := s.Metadata.Labels[serviceLabel]
	if name != "" && s.Metadata.Namespace != c.cfg.Namespace {
		name = s.Metadata.Namespace + "/" + name
	}
	if names.CheckService(name) != nil {
		return ""
	}
	return name
}

// service merges the slices of a service, which may be many: for each family, for more than a hundred pods, and, while pods move
// from one to another, with the same pod in two.
func (c *cache) service(name string) []discovery.Endpoint {
	type key struct{ instance, port string }
	best := make(map[key]discovery.Endpoint)
	for slice := range c.of[name] {
		for _, ep := range c.entries[slice].endpoints {
			k := key{ep.Instance, ep.Port}
			if other, there := best[k]; there {
				ep = c.both(ep, other)
			}
			best[k] = ep
		}
	}
	all := make([]discovery.Endpoint, 0, len(best))
	for _, ep := range best {
		ep.Suspect = c.stale
		all = append(all, ep)
	}
	return all
}

// both is what two slices say of the same pod.
func (c *cache) both(ep, other discovery.Endpoint) discovery.Endpoint {
	if !c.better(ep, other) {
		ep, other = other, ep
	}
	switch {
	case ep.Addr.Port() != other.Addr.Port():
	case ep.Addr.Addr().Is6() != other.Addr.Addr().Is6():
		ep.Also = discovery.AddrsOf(other.Addr.Addr())
	default:
		ep.Also = cmp.Or(ep.Also, other.Also)
	}
	return ep
}

// better orders what is said of the same pod: the preferred family, then who takes traffic, then any, but always the same.
func (c *cache) better(a, b discovery.Endpoint) bool {
	if a.Addr.Addr().Is6() != b.Addr.Addr().Is6() {
		return a.Addr.Addr().Is6() == c.cfg.PreferIPv6
	}
	return cmp.Or(cmp.Compare(a.State, b.State), a.Addr.Compare(b.Addr), cmp.Compare(a.Zone, b.Zone)) < 0
}

func (c *cache) endpoints(s *slice, service string) []discovery.Endpoint {
	if s.AddressType != "IPv4" && s.AddressType != "IPv6" {
		return nil // names, which would have to be resolved
	}
	var all []discovery.Endpoint
	for _, ep := range s.Endpoints {
		if len(ep.Addresses) == 0 {
			continue
		}
		addr, err := netip.ParseAddr(ep.Addresses[0]) // "consumers should only use the first"
		if err != nil {
			continue
		}
		for _, p := range s.Ports {
			port := p.Name
			if port == c.cfg.DefaultPort {
				port = ""
			}
			if p.Port == nil || *p.Port == 0 || p.Protocol != "" && p.Protocol != "TCP" || port != "" && names.CheckPort(port) != nil {
				continue
			}
			all = append(all, discovery.Endpoint{
				Service: service, Port: port, Instance: ep.instance(), Addr: netip.AddrPortFrom(addr.Unmap(), *p.Port),
				Zone: ep.Zone, State: ep.state(),
			})
		}
	}
	return all
}

// instance tells a pod from the one that had its name before, as those of a StatefulSet have.
func (e *endpoint) instance() string {
	if e.TargetRef == nil || e.TargetRef.Kind != "Pod" {
		return e.Addresses[0]
	}
	return e.TargetRef.Name + "@" + e.TargetRef.UID[:min(8, len(e.TargetRef.UID))]
}

func (e *endpoint) state() discovery.State {
	switch c := e.Conditions; {
	case c.Terminating != nil && *c.Terminating:
		return discovery.Draining
	case c.Ready == nil || *c.Ready:
		return discovery.Ready
	}
	return discovery.Starting
}
