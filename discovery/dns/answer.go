package dns

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	// maxChain bounds how many CNAME records lead to the addresses.
	maxChain = 8
	// maxRecords bounds the records of one answer that are looked at.
	maxRecords = 4096
)

var (
	// errStray is about what does not answer the question.
	errStray = errors.New("not an answer to the question")
	// errTruncated asks for TCP.
	errTruncated = errors.New("truncated")
)

// answer is what a server said about one question. Without records, that there are none.
type answer struct {
	addrs []netip.Addr
	srv   []dnsmessage.SRVResource
	extra map[string][]netip.Addr // of hosts in the additional section, by canonical name
	ttl   time.Duration
}

// canonical is a name that can be compared (RFC 4343).
func canonical(n dnsmessage.Name) string { return strings.ToLower(n.String()) }

// parse reads a server's message, which may be anything.
func (m *query) parse(msg []byte) (*answer, error) {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil || h.ID != m.id || !h.Response {
		return nil, errStray
	}
	q, err := p.Question()
	if err != nil || canonical(q.Name) != canonical(m.question.Name) || q.Type != m.question.Type || q.Class != m.question.Class {
		return nil, errStray
	}
	if err := p.SkipAllQuestions(); err != nil {
		return nil, err
	}
	switch {
	case h.Truncated:
		return nil, errTruncated
	case h.RCode != dnsmessage.RCodeSuccess && h.RCode != dnsmessage.RCodeNameError:
		return nil, fmt.Errorf("the server answers %s", strings.TrimPrefix(h.RCode.String(), "RCode"))
	}
	records, err := section(p.Answer)
	if err != nil {
		return nil, err
	}
	a := m.pick(records)
	if len(a.addrs)+len(a.srv) == 0 {
		authority, err := section(p.Authority)
		a.ttl = negativeTTL(authority)
		return a, err
	}
	if len(a.srv) == 0 {
		return a, nil
	}
	if err := p.SkipAllAuthorities(); err != nil {
		return nil, err
	}
	records, err = section(p.Additional)
	for _, r := range records {
		if addr := address(r.Body); addr.IsValid() {
			name := canonical(r.Header.Name)
			a.extra[name] = append(a.extra[name], addr)
			a.ttl = min(a.ttl, ttl(r))
		}
	}
	return a, err
}

// section reads what next returns, up to the section's end. Records of types that are not known are skipped by their
// length.
func section(next func() (dnsmessage.Resource, error)) ([]dnsmessage.Resource, error) {
	var all []dnsmessage.Resource
	for {
		r, err := next()
		switch {
		case errors.Is(err, dnsmessage.ErrSectionDone):
			return all, nil
		case err != nil:
			return nil, err
		case len(all) == maxRecords:
			return nil, fmt.Errorf("more than %d records", maxRecords)
		}
		all = append(all, r)
	}
}

// pick returns the records of the name that was asked for, or of the one that it is an alias of.
func (m *query) pick(records []dnsmessage.Resource) *answer {
	a := &answer{extra: make(map[string][]netip.Addr), ttl: math.MaxInt64}
	name := canonical(m.question.Name)
	for range maxChain {
		alias := ""
		for _, r := range records {
			if canonical(r.Header.Name) != name {
				continue
			}
			switch b := r.Body.(type) {
			case *dnsmessage.CNAMEResource:
				alias = canonical(b.CNAME)
			case *dnsmessage.SRVResource:
				a.srv = append(a.srv, *b)
			default:
				addr := address(b)
				if !addr.IsValid() {
					continue
				}
				a.addrs = append(a.addrs, addr)
			}
			a.ttl = min(a.ttl, ttl(r))
		}
		if alias == "" || len(a.addrs)+len(a.srv) > 0 {
			break
		}
		name = alias
	}
	return a
}

func ttl(r dnsmessage.Resource) time.Duration {
	if r.Header.TTL > math.MaxInt32 {
		return 0 // RFC 2181, section 8
	}
	return time.Duration(r.Header.TTL) * time.Second
}

// negativeTTL is how long it counts that there is nothing (RFC 2308, section 5); 0 when the answer does not say.
func negativeTTL(authority []dnsmessage.Resource) time.Duration {
	for _, r := range authority {
		if soa, ok := r.Body.(*dnsmessage.SOAResource); ok {
			return min(ttl(r), time.Duration(soa.MinTTL)*time.Second)
		}
	}
	return 0
}

func address(b dnsmessage.ResourceBody) netip.Addr {
	switch b := b.(type) {
	case *dnsmessage.AResource:
		return netip.AddrFrom4(b.A)
	case *dnsmessage.AAAAResource:
		return netip.AddrFrom16(b.AAAA).Unmap()
	}
	return netip.Addr{}
}
