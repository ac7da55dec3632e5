package policy

import (
	"net/netip"

	"github.com/intramesh/mesh/identity"
)

// field names what of a rule did not match; matched says that nothing did not.
type field uint8

const (
	matched field = iota
	fieldServices
	fieldNotServices
	fieldTrustDomains
	fieldIPs
	fieldPorts
	fieldHosts
	fieldMethods
	fieldPaths
	fieldGRPC
	fieldHeader
	fieldClaim
)

// A query is a request, ready to be matched by rules of one action.
type query struct {
	*Request
	service, trustDomain string // of the source, "" when unavailable
	ours                 bool   // the source is of the mesh's own trust domain
	hash                 uint64 // of service; see serviceHash

	// What the test of an unavailable field yields: true is "could match". The
	// parts of a rule combine without negation, so that deciding it at the leaves is
	// Kleene's three-valued logic with "unknown" decided at the end.
	// unknownRequest is for what the rule's "when" looks at, unknownOperation for its "to".
	unknownPeer, unknownRequest, unknownOperation bool
	// anyValue makes one matching line of a header enough; else all must.
	anyValue bool

	engine *Engine
	token  *tokenState // nil until a rule asks
}

func (e *Engine) query(r *Request) query {
	domain := r.Source.TrustDomain().Name()
	return query{Request: r, engine: e, service: identity.ServiceName(r.Source), trustDomain: domain, ours: domain == e.trustDomain}
}

// serviceHash returns the hash of the service's name for the engine's tables.
func (q *query) serviceHash() uint64 {
	if q.hash == 0 {
		q.hash = hashName(q.engine.seed, q.service)
	}
	return q.hash
}

// as sets the query up for the rules of an action: where something is unavailable,
// an allow does not match and a deny does. What a request of a deferred connection will look like
// is nothing that a deny can hold against the connection; an allow may come to match.
func (q *query) as(a Action) *query {
	deferred := q.Deferred && q.Layer == LayerConnection
	q.unknownPeer = a == ActionDeny
	q.unknownRequest = (a == ActionDeny) != deferred && a != ActionAudit
	q.unknownOperation = q.unknownRequest
	q.anyValue = a != ActionAllow
	return q
}

// sourceMatch is a rule's source. What few rules use is apart, to keep the many small.
type sourceMatch struct {
	services values
	own      bool // the names are of the mesh's own trust domain, else of any
	more     *moreSource
}

type moreSource struct {
	notServices, trustDomains, notTrustDomains values
	ips, notIPs                                []netip.Prefix
}

func (s *sourceMatch) match(q *query) field {
	ours := !s.own || q.ours
	if s.services != nil {
		if q.service == "" {
			if !q.unknownPeer {
				return fieldServices
			}
		} else if !ours || !s.services.match(q.service) {
			return fieldServices
		}
	}
	if s.more != nil {
		return s.more.match(q, ours)
	}
	return matched
}

func (s *moreSource) match(q *query, ours bool) field {
	if s.notServices != nil {
		if q.service == "" {
			if !q.unknownPeer {
				return fieldServices
			}
		} else if ours && s.notServices.match(q.service) {
			return fieldNotServices
		}
	}
	if s.trustDomains != nil || s.notTrustDomains != nil {
		ok := q.unknownPeer
		if q.trustDomain != "" {
			ok = in(s.trustDomains, s.notTrustDomains, q.trustDomain)
		}
		if !ok {
			return fieldTrustDomains
		}
	}
	if !matchIP(q, s.ips, s.notIPs) {
		return fieldIPs
	}
	return matched
}

// in reports whether the value is in the one list and not in the other; nil is no list.
func in(list, not values, s string) bool {
	return (list == nil || list.match(s)) && !not.match(s)
}

func matchIP(q *query, list, not []netip.Prefix) bool {
	if list == nil && not == nil {
		return true
	}
	if !q.SourceAddr.IsValid() {
		return q.unknownPeer
	}
	addr := q.SourceAddr.Unmap().WithZone("")
	return (list == nil || contains(list, addr)) && !contains(not, addr)
}

func contains(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// operationMatch is a rule's operation: all of its tests must hold.
type operationMatch []test

// A test looks at one field of the request.
type test struct {
	field field
	list  values
}

func (o operationMatch) match(q *query) field {
	for i := range o {
		t := &o[i]
		s, known := q.value(t.field)
		if known && !t.list.match(s) || !known && !q.unknownOperation {
			return t.field
		}
	}
	return matched
}

// value returns a field of the request, and whether this layer knows it. A value that no
// canonical request has, such as an empty method, counts as unknown. [Engine.Early] knows both layers of a gRPC call.
func (q *query) value(f field) (s string, known bool) {
	switch f {
	case fieldPorts:
		return q.Port, true
	case fieldHosts:
		return q.Host, q.Layer&LayerHTTP != 0 && q.Host != ""
	case fieldMethods:
		return q.Method, q.Layer&LayerHTTP != 0 && q.Method != ""
	case fieldPaths:
		return q.Path, q.Layer&LayerHTTP != 0 && q.Path != "" && q.Path[0] == '/'
	case fieldGRPC:
		return q.GRPCMethod, q.Layer&LayerGRPC != 0 && q.GRPCMethod != "" && q.GRPCMethod[0] != '/'
	default:
		return "", false
	}
}

type conditionKind uint8

const (
	conditionHeader conditionKind = iota
	conditionIP
	conditionPort
	conditionClaim
)

type conditionMatch struct {
	kind conditionKind
	headerName
	claim             []string // the names that lead to it
	some              bool     // the claim's values are taken together: one of them, none of them
	values, notValues values
	ips, notIPs       []netip.Prefix
}

func (c *conditionMatch) match(q *query) field {
	switch c.kind {
	case conditionIP:
		if !matchIP(q, c.ips, c.notIPs) {
			return fieldIPs
		}
	case conditionPort:
		if !in(c.values, c.notValues, q.Port) {
			return fieldPorts
		}
	case conditionHeader:
		if !c.matchHeader(q) {
			return fieldHeader
		}
	case conditionClaim:
		if !c.matchClaim(q) {
			return fieldClaim
		}
	}
	return matched
}

// foreign reports whether no request of the query's layer has the field.
func (q *query) foreign(f field) bool {
	switch q.Layer {
	case LayerHTTP:
		return f == fieldGRPC
	case LayerGRPC:
		return f == fieldHosts || f == fieldMethods || f == fieldPaths
	default:
		return false
	}
}

// closer returns which of two failures to tell: of the operation that got further, and of one that this layer can have.
func (q *query) closer(a, b field) field {
	if a != matched && q.foreign(a) == q.foreign(b) {
		return max(a, b)
	}
	if a == matched || q.foreign(a) {
		return b
	}
	return a
}

// match decides the whole rule.
func (r *compiledRule) match(q *query) field {
	closest := matched
	for i := range r.from {
		f := r.from[i].match(q)
		if f == matched {
			return r.matchRequest(q)
		}
		closest = max(closest, f)
	}
	if closest != matched {
		return closest
	}
	return r.matchRequest(q)
}

// matchRequest decides all but the source. Of several operations it tells what failed in
// the one that got furthest.
func (r *compiledRule) matchRequest(q *query) field {
	if r.open && q.Layer == LayerConnection && q.unknownRequest && q.unknownOperation {
		return matched
	}
	closest := matched
	for _, o := range r.to {
		f := o.match(q)
		if f == matched {
			closest = matched
			break
		}
		closest = q.closer(closest, f)
	}
	if closest != matched {
		return closest
	}
	for i := range r.when {
		if f := r.when[i].match(q); f != matched {
			return f
		}
	}
	return matched
}
