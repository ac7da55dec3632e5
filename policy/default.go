package policy

// A fallback is a Default document: what decides where no rule does.
type fallback struct {
	name, destination string
	verdict           Verdict
}

func (c *compiler) fallback(doc *Document) *fallback {
	spec := &path{field: "spec"}
	if doc.Default == nil {
		c.fail(spec, "is missing")
		return nil
	}
	c.value(new(values), doc.Default.Service, parseDestination, spec.at("service"))
	out := &fallback{name: doc.Metadata.Name, destination: doc.Default.Service}
	switch doc.Default.Verdict {
	case ActionAllow:
		out.verdict = Allow
	case ActionDeny:
	default:
		c.fail(spec.at("verdict"), "want allow or deny, found %q", clip(string(doc.Default.Verdict), maxText/2))
	}
	return out
}

// byDefault decides what no rule did.
func (e *Engine) byDefault(d *Decision, q *query, s *scope) {
	for p := s; p != nil; p = p.parent {
		f := p.fallback
		if f == nil {
			continue
		}
		d.Policy = f.name
		if f.verdict == Allow {
			d.Verdict, d.Reason = Allow, f.reason()
			return
		}
		break
	}
	d.Reason = e.whyNotAllowed(q, s)
}

// reason is made of constants: allowing by default allocates nothing.
func (f *fallback) reason() string {
	if f.destination == "*" {
		return "no rule decides; the default of the mesh allows it"
	}
	return "no rule decides; a default of the service allows it"
}
