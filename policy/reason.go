package policy

import (
	"strconv"
	"strings"
	"unicode"
)

// String names what of a request the field looks at.
func (f field) String() string {
	switch f {
	case matched:
		return "nothing"
	case fieldServices, fieldNotServices:
		return "caller"
	case fieldTrustDomains:
		return "trust domain"
	case fieldIPs:
		return "address"
	case fieldPorts:
		return "port"
	case fieldHosts:
		return "host"
	case fieldMethods:
		return "method"
	case fieldPaths:
		return "path"
	case fieldGRPC:
		return "gRPC method"
	case fieldHeader:
		return "header"
	case fieldClaim:
		return "claim"
	}
	return "invalid"
}

// whyDenied says why an enforced deny rule matched: by what it says, or because it needs
// what is not known.
func (q *query) whyDenied(r *compiledRule) string {
	q.surely()
	f := r.match(q)
	if f == matched {
		return reasonMatches
	}
	return "a rule needs the " + f.String() + ", which is not known " + q.where() + q.whyNoToken(f)
}

// whyNoToken says why a claim is not known.
func (q *query) whyNoToken(f field) string {
	if f != fieldClaim || q.token == nil || q.token.err == nil {
		return ""
	}
	return ": " + q.token.err.Error()
}

func (q *query) where() string {
	switch q.Layer {
	case LayerHTTP:
		return "of this HTTP request"
	case LayerGRPC:
		return "of this gRPC call"
	default:
		return "when a connection is accepted"
	}
}

// whyNotAllowed says what is missing when no rule decided.
func (e *Engine) whyNotAllowed(q *query, scope *scope) string {
	var allow, dry int
	for s := scope; s != nil; s = s.parent {
		allow += s.allowDocs
		dry += s.dryDocs
	}
	to := printable(q.Destination)
	if allow == 0 && dry > 0 {
		return "no policy allows anybody to call " + to + " (" + count(dry, "policy is", "policies are") + " in dry run)"
	}
	if allow == 0 {
		return "no policy allows anybody to call " + to
	}
	from := e.caller(q)
	// Ask again as for a connection whose requests are still to come.
	later := e.query(&Request{Deferred: true, Source: q.Source, SourceAddr: q.SourceAddr, Destination: q.Destination, Port: q.Port})
	later.as(ActionAllow)
	for s := scope; s != nil; s = s.parent {
		if s.allow.find(&later) == nil {
			continue
		}
		if q.Layer == LayerConnection {
			return "the rules that allow " + from + " decide by request, and this listener sees connections only"
		}
		why := from + " may call " + to + ", but no rule allows " + q.request()
		if q.token != nil && q.token.err != nil {
			why += " (the claims that rules ask for are not known: " + q.token.err.Error() + ")"
		}
		return why
	}
	why := to + " has " + count(allow, "allow policy", "allow policies") + ", none for " + from
	if q.Port != "" {
		why += " on port " + printable(q.Port)
	}
	return why
}

// caller names the source: by its service, or in full when it is of another trust domain.
func (e *Engine) caller(q *query) string {
	switch {
	case q.Source.IsZero():
		return "a caller without an identity"
	case q.service == "" || q.trustDomain != e.trustDomain:
		return q.Source.String()
	}
	return q.service
}

func (q *query) request() string {
	if q.Layer == LayerGRPC {
		return printable(q.GRPCMethod)
	}
	return printable(q.Method) + " " + printable(q.Path)
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}

// printable makes what a peer sent fit for a message.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsGraphic(r) {
			return r
		}
		return '?'
	}, clip(s, 200))
}
