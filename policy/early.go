package policy

// Early answers a caller's question before it calls: would the callee surely deny this? If so, the call need not be made,
// and the [Decision] is what the callee would tell (see [Decision.Told]). The callee stays the authority: whenever anything
// is not sure, the answer is false, and then it is to be asked.
//
// callee is the version of the rules that the very instance to be called has said it enforces; 0 is unknown. Any earlier
// word of it will do, since versions only grow. If that is another version than the engine's, nothing is sure: it may have
// newer rules, or others altogether. So it is where an audit or dry-run rule might match, which would miss the call.
//
// Of r, the Layer, Source, Destination and Port count, and at [LayerHTTP] and [LayerGRPC] what names the request: Method, Path
// and Host, canonical; GRPCMethod, and Host if that is known. A gRPC call is asked about at LayerGRPC only. What the callee may
// see otherwise is taken as unknown: the caller's address, headers and claims, whether the requests of a connection
// are decided one by one, and whether a gRPC call is decided as the HTTP request that it also is. A denial is sure if
// all that is unknown can't change it: a deny that might match does not count, an allow that might match does.
func (e *Engine) Early(r *Request, callee uint64) (Decision, bool) {
	if e.Version() == 0 || e.Version() != callee || r.Source.IsZero() || r.Destination == "" || r.Layer > LayerGRPC {
		return Decision{}, false
	}
	known := Request{
		Layer: r.Layer, Deferred: r.Layer == LayerConnection, Source: r.Source, Destination: r.Destination, Port: r.Port,
		Method: r.Method, Path: r.Path, Host: r.Host, GRPCMethod: r.GRPCMethod,
	}
	if r.Layer == LayerGRPC {
		known.Layer, known.Method, known.Path = LayerHTTP|LayerGRPC, "POST", "/"+r.GRPCMethod
	}
	scope := e.scope(r.Destination)
	q := e.query(&known)
	d := Decision{Rule: -1, Layer: r.Layer, Version: e.version, Tell: scope.tell && q.ours}
	deny := scope.find(ActionDeny, q.as(ActionDeny).surely())
	q.as(ActionAllow).maybe()
	switch {
	case scope.recorded && scope.mightRecord(&q):
		return Decision{}, false
	case deny != nil:
		d.Policy, d.Rule, d.Reason = deny.policy, deny.index, reasonMatches
		return d.Told(), true
	case scope.find(ActionAllow, &q) != nil:
		return Decision{}, false
	}
	known.Layer, q.token = r.Layer, nil // for the words
	e.byDefault(&d, &q, scope)
	return d.Told(), d.Verdict == Deny
}

// surely sets the query up for rules that match whatever the unknown is.
func (q *query) surely() *query {
	q.unknownPeer, q.unknownRequest, q.unknownOperation = false, false, false
	return q
}

// maybe sets the query up for rules that match for some of what is unknown. No request that is not gRPC has a gRPC method: where
// all of its name is known, no allow that asks for one can match.
func (q *query) maybe() {
	named := q.Layer == LayerHTTP && q.Method != "" && q.Path != "" && q.Host != ""
	q.unknownPeer, q.unknownRequest, q.unknownOperation = true, true, !named
}

// mightRecord reports whether an audit or a dry run might match.
func (s *scope) mightRecord(q *query) bool {
	for ; s != nil; s = s.parent {
		if h := s.shadows; h != nil && (h.audit.find(q) != nil || h.dryDeny.find(q) != nil || h.dryAllow.find(q) != nil) {
			return true
		}
	}
	return false
}
