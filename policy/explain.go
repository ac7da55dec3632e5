package policy

import "context"

// An Explanation is a decision with every policy that was considered for it.
type Explanation struct {
	Decision Decision `json:"decision"`
	// Shadow is the decision's.
	Shadow *Shadow `json:"shadow,omitempty"`
	// Policies are those whose destination is the service, in the order of the bundle.
	Policies []DocumentTrace `json:"policies"`
}

// A DocumentTrace is what one document made of a request.
type DocumentTrace struct {
	Policy  string `json:"policy"`
	Action  Action `json:"action"`
	Mode    Mode   `json:"mode"`
	Matched bool   `json:"matched"`
	// Rules is empty for a document without rules, which matches nothing.
	Rules []RuleTrace `json:"rules"`
}

// A RuleTrace is what one rule made of a request.
type RuleTrace struct {
	Matched bool `json:"matched"`
	// Why tells, in a few words, what did not match, or that something was not known.
	Why string `json:"why,omitempty"`
}

// Explain decides a request as [Engine.Authorize] does, and tells how every policy for the
// service saw it. It is for people: it allocates, and looks at each rule.
func (e *Engine) Explain(ctx context.Context, r *Request) Explanation {
	out := Explanation{Decision: e.Authorize(ctx, r), Policies: []DocumentTrace{}}
	out.Shadow = out.Decision.Shadow
	if e == nil || r.Destination == "" {
		return out
	}
	q := e.query(r)
	for _, doc := range e.docs {
		var v values
		if parseService(&v, doc.destination) != nil || !v.match(r.Destination) {
			continue
		}
		t := DocumentTrace{Policy: doc.name, Action: doc.action, Mode: doc.mode, Rules: make([]RuleTrace, len(doc.rules))}
		for i := range doc.rules {
			t.Rules[i] = q.as(doc.action).trace(&doc.rules[i])
			t.Matched = t.Matched || t.Rules[i].Matched
		}
		out.Policies = append(out.Policies, t)
	}
	return out
}

func (q *query) trace(r *compiledRule) RuleTrace {
	f := r.match(q)
	if f == matched {
		q.surely()
		t := RuleTrace{Matched: true}
		if f = r.match(q); f != matched {
			t.Why = "the " + f.String() + " is not known " + q.where() + q.whyNoToken(f)
		}
		return t
	}
	if f == fieldNotServices {
		return RuleTrace{Why: "the caller is one of those left out"}
	}
	// Would it match if what is not known were known? What a request can't have will never be.
	q.unknownPeer, q.unknownRequest, q.unknownOperation = true, true, q.Layer == LayerConnection
	if q.foreign(f) || r.match(q) == matched {
		return RuleTrace{Why: "the " + f.String() + " is not known " + q.where() + q.whyNoToken(f)}
	}
	return RuleTrace{Why: "the " + f.String() + " does not match"}
}
