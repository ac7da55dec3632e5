package consul

import (
	"cmp"
	"context"
	"io"
	"math"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/internal/remote"
)

const (
	// maxWait is how long Consul may hold a query; it adds up to a sixteenth of it. grace is what the answer may take on top.
	maxWait = 5 * time.Minute
	grace   = 20 * time.Second
	// maxQueries is how many queries are under way at a time, cycle for how long others may have to wait for their turn.
	maxQueries = 64
	cycle      = 10 * time.Second
	// maxAnswer bounds what is decoded, a service of some ten thousand instances.
	maxAnswer = 64 << 20
)

// instance is what we read of an entry of /v1/health/service.
type instance struct {
	Node struct {
		Node            string
		Address         string
		TaggedAddresses map[string]string
		Locality        *locality
	}
	Service struct {
		ID              string
		Address         string
		TaggedAddresses map[string]struct {
			Address string
			Port    int
		}
		Port     int
		Weights  struct{ Passing, Warning int }
		Locality *locality
	}
	Checks []struct {
		CheckID string
		Status  string
	}
}

type locality struct{ Region, Zone string }

func (l *locality) zone() string {
	switch {
	case l == nil:
		return ""
	case l.Region == "":
		return l.Zone
	}
	return l.Region + "/" + l.Zone
}

// query asks for a service's instances. With an index other than 0, Consul answers when there is something newer, or after a
// while. It returns the index of the answer.
func (s *Source) query(ctx context.Context, svc Service, index uint64) ([]discovery.Endpoint, uint64, error) {
	select {
	case s.turns <- struct{}{}:
		defer func() { <-s.turns }()
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
	wait := maxWait
	if n := len(s.cfg.Services); n > maxQueries {
		wait = cycle * maxQueries / time.Duration(n)
	}
	timeout := grace
	q := url.Values{}
	set := func(key, value string) {
		if value != "" {
			q.Set(key, value)
		}
	}
	set("tag", svc.Tag)
	set("dc", s.cfg.Datacenter)
	set("ns", s.cfg.Namespace)
	set("partition", s.cfg.Partition)
	if !s.cfg.Consistent {
		q.Set("stale", "")
	}
	if index > 0 {
		q.Set("index", strconv.FormatUint(index, 10))
		q.Set("wait", wait.String())
		timeout += wait + wait/16
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	u := s.base.JoinPath("v1/health/service", url.PathEscape(svc.Name))
	u.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, 0, err
	}
	if s.cfg.TokenFile != "" {
		token, err := remote.Token(s.cfg.TokenFile)
		if err != nil {
			return nil, 0, err
		}
		req.Header.Set("X-Consul-Token", token)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		message, _ := io.ReadAll(io.LimitReader(resp.Body, 1024)) // else there is no message
		return nil, 0, remote.Status(resp, strings.TrimSpace(string(message)))
	}
	next, err := strconv.ParseUint(resp.Header.Get("X-Consul-Index"), 10, 64)
	if err != nil {
		return nil, 0, errNoIndex
	}
	var all []instance
	if err := remote.Decode(resp.Body, maxAnswer, &all); err != nil {
		return nil, 0, err
	}
	if len(all) == 0 && resp.Header.Get("X-Consul-Results-Filtered-By-ACLs") == "true" {
		return nil, 0, errFiltered
	}
	var found []discovery.Endpoint
	for i := range all {
		if ep, ok := all[i].endpoint(svc); ok {
			found = append(found, ep)
		}
	}
	return found, next, nil
}

// endpoint returns false for an instance that can't be dialed: without a port, or with a name for an address.
func (n *instance) endpoint(svc Service) (discovery.Endpoint, bool) {
	addr, err := netip.ParseAddr(cmp.Or(n.Service.Address, n.Node.Address))
	if err != nil || n.Service.Port < 1 || n.Service.Port > math.MaxUint16 {
		return discovery.Endpoint{}, false
	}
	ep := discovery.Endpoint{
		Service: svc.Service, Port: svc.Port, Instance: n.Node.Node + "/" + n.Service.ID,
		Addr: netip.AddrPortFrom(addr.Unmap(), uint16(n.Service.Port)),
		Zone: cmp.Or(n.Service.Locality.zone(), n.Node.Locality.zone()),
	}
	ep.Also = n.also(ep.Addr)
	weight := n.Service.Weights.Passing
	for _, c := range n.Checks {
		switch {
		case c.CheckID == "_node_maintenance", strings.HasPrefix(c.CheckID, "_service_maintenance:"):
			ep.State = discovery.Draining
		case c.Status == "critical":
			ep.Suspect = true
		case c.Status == "warning":
			weight = n.Service.Weights.Warning
		}
	}
	if ep.State == discovery.Draining {
		ep.Suspect = false
	}
	ep.Weight = uint16(min(max(weight, 1), math.MaxUint16))
	return ep, true
}

// also returns the addresses in the same network by which an instance is found besides: the one of IPv6 beside that of IPv4, say.
// The instance's are those of the node when it has no address of its own.
func (n *instance) also(of netip.AddrPort) discovery.AddrList {
	var all []netip.Addr
	for _, tag := range []string{"lan_ipv4", "lan_ipv6"} {
		text, port := n.Service.TaggedAddresses[tag].Address, n.Service.TaggedAddresses[tag].Port
		if n.Service.Address == "" {
			text, port = n.Node.TaggedAddresses[tag], int(of.Port())
		}
		if a, err := netip.ParseAddr(text); err == nil && a.Unmap() != of.Addr() && port == int(of.Port()) {
			all = append(all, a.Unmap())
		}
	}
	return discovery.AddrsOf(all...)
}
