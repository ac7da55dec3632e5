package policy

// A Shadow is what a decision leaves on record without being changed by it: the audit and dry-run
// documents that matched.
type Shadow struct {
	// Verdict is what the decision would be if the dry-run documents were enforced.
	Verdict Verdict `json:"verdict"`
	// Matches are the rules of audit and dry-run documents that matched. It is never empty.
	Matches []Match `json:"matches"`
}

// A Match is a rule that matched a request.
type Match struct {
	Policy string `json:"policy"`
	Rule   int    `json:"rule"`
	Action Action `json:"action"`
	Mode   Mode   `json:"mode"`
}

// shadow returns what is on record for a request that was decided, nil for nothing.
func (s *scope) shadow(q *query, d *Decision) *Shadow {
	var list []Match
	var deny, allow bool
	for ; s != nil; s = s.parent {
		if s.shadows == nil {
			continue
		}
		list = s.shadows.audit.collect(q.as(ActionAudit), list)
		n := len(list)
		list = s.shadows.dryDeny.collect(q.as(ActionDeny), list)
		deny = deny || len(list) > n
		n = len(list)
		list = s.shadows.dryAllow.collect(q.as(ActionAllow), list)
		allow = allow || len(list) > n
	}
	if len(list) == 0 {
		return nil
	}
	byRule := d.Verdict == Deny && d.Rule >= 0
	out := &Shadow{Matches: list}
	if !deny && !byRule && (allow || d.Verdict == Allow) {
		out.Verdict = Allow
	}
	return out
}
