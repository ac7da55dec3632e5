package policy

import "fmt"

// A Warning is something in the rules that is likely not what its author meant, or that some listener can't
// evaluate. Nothing is weakened by it: what can't be evaluated is unavailable.
type Warning struct {
	// Document is the name of the document, Field the place in it, "spec.rules[2].to[0].grpc".
	Document string `json:"document"`
	Field    string `json:"field,omitempty"`
	Message  string `json:"message"`
}

// String returns "document: field: message".
func (w Warning) String() string {
	if w.Field == "" {
		return w.Document + ": " + w.Message
	}
	return w.Document + ": " + w.Field + ": " + w.Message
}

// A Listener is a named port of a service, and what is known there.
type Listener struct {
	Service, Port string
	// Requests says that each request is decided, Tokens that there is a [TokenVerifier].
	Requests, Tokens bool
}

// Check returns what of the enforced rules the listener can't evaluate, at most one warning for each document: rules about
// requests where connections are decided as a whole, which as an allow match nothing there and as a deny
// everything; and rules about claims where no token is verified.
func (e *Engine) Check(l Listener) []Warning {
	if e == nil || !e.ready {
		return nil
	}
	var out []Warning
	for s := e.scope(l.Service); s != nil; s = s.parent {
		for _, ix := range [...]*index{&s.deny, &s.allow} {
			told := ""
			for _, r := range ix.rules {
				if r.policy == told { // the rules of a document stand together
					continue
				}
				if msg := l.check(r); msg != "" {
					told = r.policy
					out = append(out, Warning{r.policy, r.field().String(), msg})
				}
			}
		}
	}
	return out
}

func (l Listener) check(r *compiledRule) string {
	f := r.needs(func(ports values) bool { return ports.match(l.Port) })
	port := "the default port"
	if l.Port != "" {
		port = fmt.Sprintf("port %q", l.Port)
	}
	switch {
	case f == matched:
		return ""
	case !l.Requests && r.doc.action == ActionDeny:
		return fmt.Sprintf("looks at the %s, and %s of %s serves connections, not requests: the port is closed to all whom this rule could deny", f, port, l.Service)
	case !l.Requests:
		return fmt.Sprintf("looks at the %s, and %s of %s serves connections, not requests: this rule allows nothing there", f, port, l.Service)
	case f == fieldClaim && !l.Tokens && r.doc.action == ActionDeny:
		return fmt.Sprintf("looks at a claim, and %s of %s verifies no tokens: all whom this rule could deny are denied", port, l.Service)
	case f == fieldClaim && !l.Tokens:
		return fmt.Sprintf("looks at a claim, and %s of %s verifies no tokens: this rule allows nothing there", port, l.Service)
	}
	return ""
}

// field returns the rule's place in its document.
func (r *compiledRule) field() *path {
	return &path{up: (&path{field: "spec"}).at("rules"), index: r.index}
}

// needs returns which field of a request, if any, the rule must know before it can match where ports says that it is
// meant; a claim before all others.
func (r *compiledRule) needs(ports func(values) bool) field {
	f := matched
	if len(r.to) > 0 {
		meant := false
		for _, o := range r.to {
			needs, here := o.needs(ports)
			if !here {
				continue
			}
			if !meant || needs == matched {
				f = needs
			}
			meant = true
			if f == matched {
				break
			}
		}
		if !meant {
			return matched
		}
	}
	for i := range r.when {
		c := &r.when[i]
		switch {
		case c.kind == conditionPort && !ports(c.values):
			return matched
		case c.kind == conditionHeader:
			f = max(f, fieldHeader)
		case c.kind == conditionClaim:
			f = fieldClaim
		}
	}
	return f
}

// needs is the same for an operation; here says that it is meant at all.
func (o operationMatch) needs(ports func(values) bool) (f field, here bool) {
	for _, t := range o {
		switch {
		case t.field == fieldPorts:
			if !ports(t.list) {
				return matched, false
			}
		case f == matched:
			f = t.field
		}
	}
	return f, true
}
