package policy

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/intramesh/mesh/internal/claims"
)

// compiledDoc is a document whose values are parsed.
type compiledDoc struct {
	name        string
	destination string // as written; see scopeKey
	action      Action
	mode        Mode
	rules       []compiledRule
}

// compiledRule is one rule: one of from, one of to, all of when.
type compiledRule struct {
	policy string // the document's name, at hand for the decision
	index  int
	// open says that nothing but the source is known of it at accept: no port, no address.
	open bool
	to   []operationMatch
	when []conditionMatch
	from []sourceMatch
	doc  *compiledDoc
}

// compiled is a document of some kind; one of its fields is set.
type compiled struct {
	doc      *compiledDoc
	fallback *fallback
	issuer   *TokenIssuer
}

// compileDocument parses the document. It reports everything that is wrong; if something is, the result is of no use.
func compileDocument(doc *Document, same sameOperations, report func(at *path, msg string)) compiled {
	c := compiler{same: same, report: report}
	if doc.APIVersion != APIVersion {
		c.fail(&path{field: "apiVersion"}, "want %q, found %q", APIVersion, doc.APIVersion)
	}
	c.metadata(doc.Metadata)
	if doc.Kind != KindDefault && doc.Default != nil || doc.Kind != KindTokenIssuer && doc.TokenIssuer != nil {
		c.fail(&path{field: "spec"}, "is that of another kind than %q", doc.Kind)
		return compiled{}
	}
	switch doc.Kind {
	case Kind:
		return compiled{doc: c.document(doc)}
	case KindDefault:
		return compiled{fallback: c.fallback(doc)}
	case KindTokenIssuer:
		return compiled{issuer: c.issuer(doc)}
	}
	c.fail(&path{field: "kind"}, "want %q, %q or %q, found %q", Kind, KindDefault, KindTokenIssuer, doc.Kind)
	return compiled{}
}

func (c *compiler) document(doc *Document) *compiledDoc {
	spec := &path{field: "spec"}
	out := &compiledDoc{name: doc.Metadata.Name, destination: doc.Spec.Service, action: doc.Spec.Action, mode: doc.Spec.Mode}
	c.value(new(values), doc.Spec.Service, parseDestination, spec.at("service"))
	switch out.action {
	case ActionAllow, ActionDeny, ActionAudit:
	default:
		c.fail(spec.at("action"), "want allow, deny or audit, found %q", out.action)
	}
	switch out.mode {
	case "":
		out.mode = ModeEnforce
	case ModeEnforce, ModeDryRun:
	default:
		c.fail(spec.at("mode"), "want enforce or dryrun, found %q", out.mode)
	}
	if len(doc.Spec.Rules) > MaxRules {
		c.fail(spec.at("rules"), "has %d rules; at most %d are accepted", len(doc.Spec.Rules), MaxRules)
		return out
	}
	out.rules = make([]compiledRule, len(doc.Spec.Rules))
	for i := range doc.Spec.Rules {
		r := &out.rules[i]
		r.policy, r.index, r.doc = out.name, i, out
		c.rule(r, &doc.Spec.Rules[i], &path{up: spec.at("rules"), index: i})
	}
	return out
}

func (p *path) at(field string) *path { return &path{up: p, field: field} }

type compiler struct {
	report   func(at *path, msg string)
	same     sameOperations
	failures int
}

// sameOperations lets rules that ask for the same, as many do, share what is compiled of it: a decision finds it in the
// processor's cache. The key is the "to" of a rule, written out.
type sameOperations map[string][]operationMatch

func (c *compiler) fail(at *path, format string, args ...any) {
	c.failures++
	c.report(at, fmt.Sprintf(format, args...))
}

const maxName = 128

func (c *compiler) metadata(m Metadata) {
	at := &path{field: "metadata"}
	if m.Name == "" || len(m.Name) > maxName || strings.IndexFunc(m.Name, notInName) >= 0 {
		c.fail(at.at("name"), "%q: want 1 to %d of a–z, 0–9, \"-\", \"_\" and \".\"", clip(m.Name, maxText/2), maxName)
	}
	if len(m.Labels) > MaxLabels {
		c.fail(at.at("labels"), "has %d labels; at most %d are accepted", len(m.Labels), MaxLabels)
		return
	}
	for k, v := range m.Labels {
		at := at.at("labels").at(k)
		if k == "" || len(k) > maxName || checkText(k) != nil {
			c.fail(at, "a label's name is 1 to %d printable characters", maxName)
		}
		if err := checkText(v); err != nil {
			c.fail(at, "%s", err)
		}
	}
}

func notInName(r rune) bool {
	return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
}

// entries checks how many alternatives a rule's from, to or when has.
func (c *compiler) entries(n int, absent bool, at *path) {
	switch {
	case !absent && n == 0:
		c.fail(at, "an empty list would match nothing; leave the field out to match everything")
	case n > MaxEntries:
		c.fail(at, "has %d elements; at most %d are accepted", n, MaxEntries)
	}
}

func (c *compiler) rule(out *compiledRule, r *Rule, at *path) {
	from, to, when := at.at("from"), at.at("to"), at.at("when")
	c.entries(len(r.From), r.From == nil, from)
	c.entries(len(r.To), r.To == nil, to)
	c.entries(len(r.When), r.When == nil, when)
	out.from = make([]sourceMatch, len(r.From))
	for i := range r.From {
		out.from[i] = c.source(&r.From[i], &path{up: from, index: i})
	}
	out.to = c.operations(r.To, to)
	out.when = make([]conditionMatch, len(r.When))
	for i := range r.When {
		out.when[i] = c.condition(&r.When[i], &path{up: when, index: i})
	}
	out.open = out.isOpen()
}

func (r *compiledRule) isOpen() bool {
	for i := range r.when {
		if k := r.when[i].kind; k != conditionHeader && k != conditionClaim {
			return false
		}
	}
	for _, o := range r.to {
		if len(o) > 0 && o[0].field != fieldPorts { // which is the first of them
			return true
		}
	}
	return len(r.to) == 0
}

func (c *compiler) source(s *Source, at *path) sourceMatch {
	out := sourceMatch{services: c.list(s.Services, parseService, at.at("services"))}
	out.own = s.TrustDomains == nil
	more := moreSource{
		notServices:     c.list(s.NotServices, parseService, at.at("notServices")),
		trustDomains:    c.list(s.TrustDomains, parseTrustDomain, at.at("trustDomains")),
		notTrustDomains: c.list(s.NotTrustDomains, parseTrustDomain, at.at("notTrustDomains")),
		ips:             c.prefixes(s.IPs, at.at("ips")),
		notIPs:          c.prefixes(s.NotIPs, at.at("notIps")),
	}
	switch {
	case more.notServices != nil || more.trustDomains != nil || more.notTrustDomains != nil || more.ips != nil || more.notIPs != nil:
		out.more = &more
	case s.Services == nil && s.TrustDomains == nil && s.IPs == nil:
		c.fail(at, "a source without a field would match everybody; leave \"from\" out to mean that")
	}
	return out
}

func (c *compiler) operations(list []Operation, at *path) []operationMatch {
	var key []byte
	for i := range list {
		o := &list[i]
		for _, values := range [...][]string{o.Ports, o.Methods, o.Paths, o.Hosts, o.GRPC} {
			if values == nil {
				key = append(key, 0) // which is not an empty list, that is refused
				continue
			}
			key = binary.AppendUvarint(key, uint64(len(values))+1)
			for _, s := range values {
				key = append(binary.AppendUvarint(key, uint64(len(s))), s...)
			}
		}
	}
	if out, ok := c.same[string(key)]; ok {
		return out
	}
	before := c.failures
	out := make([]operationMatch, len(list))
	for i := range list {
		out[i] = c.operation(&list[i], &path{up: at, index: i})
	}
	if c.failures == before {
		c.same[string(key)] = out
	}
	return out
}

func (c *compiler) operation(o *Operation, at *path) operationMatch {
	if o.Ports == nil && o.Methods == nil && o.Paths == nil && o.Hosts == nil && o.GRPC == nil {
		c.fail(at, "an operation without a field would match everything; leave \"to\" out to mean that")
	}
	var out operationMatch
	for _, t := range []struct {
		field field
		name  string
		list  []string
		parse valueParser
	}{
		{fieldPorts, "ports", o.Ports, parsePort},
		{fieldHosts, "hosts", o.Hosts, parseHost},
		{fieldMethods, "methods", o.Methods, parseMethod},
		{fieldPaths, "paths", o.Paths, parsePath},
		{fieldGRPC, "grpc", o.GRPC, parseGRPC},
	} {
		if v := c.list(t.list, t.parse, at.at(t.name)); v != nil {
			out = append(out, test{t.field, v})
		}
	}
	return slices.Clip(out)
}

const (
	headerKey = "request.header."
	jwtKey    = "request.jwt."
)

func (c *compiler) condition(w *Condition, at *path) conditionMatch {
	out := conditionMatch{}
	values, notValues := at.at("values"), at.at("notValues")
	if w.Values == nil && len(w.NotValues) == 0 {
		c.fail(at, "a condition needs values or notValues")
	}
	header, isHeader := strings.CutPrefix(w.Key, headerKey)
	switch {
	case w.Key == "source.ip":
		out.kind = conditionIP
		out.ips, out.notIPs = c.prefixes(w.Values, values), c.prefixes(w.NotValues, notValues)
		return out
	case w.Key == "destination.port":
		out.kind = conditionPort
		out.values, out.notValues = c.list(w.Values, parsePort, values), c.list(w.NotValues, parsePort, notValues)
		return out
	case isHeader:
		out.kind = conditionHeader
		out.headerName = newHeaderName(header)
		switch {
		case !isToken(header) || len(header) > MaxValueLen:
			c.fail(at.at("key"), "%q is not a header's name", header)
		case out.lower == "host":
			c.fail(at.at("key"), "the Host header is not seen here; use the field hosts of \"to\"")
		case out.lower == "transfer-encoding" || out.lower == "trailer":
			c.fail(at.at("key"), "this header is taken out of the request before it is decided")
		case claims.Has(out.canonical):
			c.fail(at.at("key"), "headers that claim an identity are removed before the request is decided; use \"from\"")
		case strings.HasPrefix(out.lower, "grpc-"):
			c.fail(at.at("key"), "the headers of gRPC itself are not seen here")
		}
		out.values, out.notValues = c.list(w.Values, parseHeaderValue, values), c.list(w.NotValues, parseHeaderValue, notValues)
	case strings.HasPrefix(w.Key, jwtKey):
		out.kind = conditionClaim
		var err error
		if out.claim, out.some, err = parseClaim(strings.TrimPrefix(w.Key, jwtKey)); err != nil {
			c.fail(at.at("key"), "%s", err)
		}
		out.values, out.notValues = c.list(w.Values, parseClaimValue, values), c.list(w.NotValues, parseClaimValue, notValues)
	default:
		c.fail(at.at("key"), "unknown key %q; want %sNAME, %siss, sub, aud or claim.NAME, source.ip or destination.port", clip(w.Key, maxText/2), headerKey, jwtKey)
	}
	return out
}

func (c *compiler) list(list []string, parse valueParser, at *path) values {
	if !c.checkList(list, at) {
		return nil
	}
	out := make(values, 0, len(list))
	for i, s := range list {
		c.value(&out, s, parse, &path{up: at, index: i})
	}
	out.done()
	return out
}

func (c *compiler) value(out *values, s string, parse valueParser, at *path) {
	err := checkText(s)
	if err == nil {
		err = parse(out, s)
	}
	if err != nil {
		c.fail(at, "%q: %s", clip(s, maxText/2), err)
	}
}

func (c *compiler) prefixes(list []string, at *path) []netip.Prefix {
	if !c.checkList(list, at) {
		return nil
	}
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		p, err := parsePrefix(s)
		if err != nil {
			c.fail(&path{up: at, index: i}, "%q: %s", clip(s, maxText/2), err)
		}
		out[i] = p
	}
	return out
}

// checkList reports whether the list constrains anything.
func (c *compiler) checkList(list []string, at *path) bool {
	switch {
	case list == nil:
		return false
	case len(list) > MaxValues:
		c.fail(at, "has %d values; at most %d are accepted", len(list), MaxValues)
		return false
	case len(list) == 0 && !strings.HasPrefix(at.field, "not"):
		c.fail(at, "an empty list would match nothing; leave the field out to match everything")
	}
	return len(list) > 0
}
