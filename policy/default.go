package policy

// A fallback is a Default document.
type fallback struct {
	name, destination string
	verdict           Action // "" leaves it to a wider one
	denials           Denials
}

func (c *compiler) fallback(doc *Document) *fallback {
	spec := &path{field: "spec"}
	if doc.Default == nil {
		c.fail(spec, "is missing")
		return nil
	}
	c.value(new(values), doc.Default.Service, parseDestination, spec.at("service"))
	out := &fallback{doc.Metadata.Name, doc.Default.Service, doc.Default.Verdict, doc.Default.Denials}
	switch {
	case out.verdict == "" && out.denials == "":
		c.fail(spec.at("verdict"), "want allow or deny, or the field denials")
	case out.verdict != "" && out.verdict != ActionAllow && out.verdict != ActionDeny:
		c.fail(spec.at("verdict"), "want allow or deny, found %q", clip(string(out.verdict), maxText/2))
	}
	switch out.denials {
	case "", DenialsExplained, DenialsBare:
	default:
		c.fail(spec.at("denials"), "want %s or %s, found %q", DenialsExplained, DenialsBare, clip(string(out.denials), maxText/2))
	}
	return out
}

// explained reports what the nearest Default that says so makes of denials.
func (s *scope) explained() bool {
	for ; s != nil; s = s.parent {
		if s.fallback != nil && s.fallback.denials != "" {
			return s.fallback.denials == DenialsExplained
		}
	}
	return true
}

// byDefault decides what no rule did.
func (e *Engine) byDefault(d *Decision, q *query, s *scope) {
	for p := s; p != nil; p = p.parent {
		f := p.fallback
		if f == nil || f.verdict == "" {
			continue
		}
		d.Policy = f.name
		if f.verdict == ActionAllow {
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
