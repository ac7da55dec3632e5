package policyimport

import (
	"maps"
	"slices"

	"github.com/intramesh/mesh/policy"
)

// write makes the documents. A destination's intentions become its allows, each for the sources that it decides for.
// Those for every destination become a document for all services, less the sources that some
// destination allows less: there a deny, or where it allows a part, nothing for all services.
func (c *consul) write() {
	names := slices.Sorted(maps.Keys(c.destinations))
	for _, name := range names {
		if name != wildcard {
			c.exact(c.destinations[name])
		}
	}
	if d := c.destinations[wildcard]; d != nil {
		c.everywhere(d)
	}
}

// exact writes what one destination says.
func (c *consul) exact(d *destination) {
	d.doc = c.im.name("consul", d.name)
	var allow, deny []policy.Rule
	var explicit, decided []string // sources with an intention; those that * must not allow, but a deny does not name
	for _, name := range slices.Sorted(maps.Keys(d.intentions)) {
		i := d.intentions[name]
		if name == wildcard {
			continue
		}
		explicit = append(explicit, name)
		from := policy.Source{Services: []string{name}}
		switch {
		case i.permissions != nil:
			decided = append(decided, name)
			a, n := d.rules(i, from)
			allow, deny = append(allow, a...), append(deny, n...)
		case i.allow:
			allow = append(allow, policy.Rule{From: []policy.Source{from}})
		default:
			deny = append(deny, policy.Rule{From: []policy.Source{from}})
		}
	}
	if i := d.intentions[wildcard]; i != nil {
		switch {
		case i.permissions != nil:
			a, n := d.rules(i, policy.Source{Services: []string{wildcard}, NotServices: explicit})
			allow, deny = append(allow, a...), append(deny, n...)
		case i.allow:
			allow = append(allow, policy.Rule{From: []policy.Source{{Services: []string{wildcard}, NotServices: decided}}})
		case c.destinations[wildcard] != nil:
			// Nothing for all services is for this one.
			var not []string
			for _, name := range explicit {
				if !d.intentions[name].denies() {
					not = append(not, name)
				}
			}
			r := policy.Rule{}
			if not != nil {
				r.From = []policy.Source{{NotServices: not}}
			}
			deny = append(deny, r)
		default:
			d.noteAt(i.at, "deny of everybody to %s: what no rule allows is denied here anyway; a later rule that allows it is not overruled", d.name)
		}
	}
	c.add(d, d.doc, policy.ActionAllow, allow)
	if deny != nil {
		c.add(d, c.im.name("consul", d.name, "deny"), policy.ActionDeny, deny)
	}
}

func (c *consul) add(d *destination, name string, action policy.Action, rules []policy.Rule) {
	if rules != nil {
		c.im.add(name, "consul", policy.Spec{Service: d.name, Action: action, Rules: rules}, d.at)
	}
}

// everywhere writes what the intentions say that are for every destination.
func (c *consul) everywhere(w *destination) {
	w.doc = c.im.name("consul-any")
	var rules []policy.Rule
	var explicit []string
	for _, name := range slices.Sorted(maps.Keys(w.intentions)) {
		i := w.intentions[name]
		if i.permissions != nil {
			w.noteAt(i.at, "%s to every destination: permissions are for one destination only; left out", name)
		}
		if name == wildcard {
			continue
		}
		explicit = append(explicit, name)
		switch {
		case i.permissions != nil:
		case !i.allow:
			w.noteAt(i.at, "deny of %s to every destination: what no rule allows is denied here anyway; a later rule that allows it is not overruled", name)
		default:
			if d := c.part(name); d != nil {
				w.noteAt(i.at, "%s to every destination: %s allows it a part only; left out", name, d.name)
				continue
			}
			rules = append(rules, policy.Rule{From: []policy.Source{{Services: []string{name}}}})
		}
	}
	if i := w.intentions[wildcard]; i != nil && i.allow {
		if d := c.part(wildcard); d != nil {
			w.noteAt(i.at, "everybody to every destination: %s allows a part only; left out", d.name)
		} else {
			for _, name := range c.sources() {
				if !slices.Contains(explicit, name) && c.part(name) != nil {
					w.noteAt(i.at, "everybody to every destination: but for %s, which %s allows a part only", name, c.part(name).name)
					explicit = append(explicit, name)
				}
			}
			rules = append(rules, policy.Rule{From: []policy.Source{{Services: []string{wildcard}, NotServices: explicit}}})
		}
	}
	c.add(w, w.doc, policy.ActionAllow, rules)
}

// part returns a destination whose own intentions decide for the source, and allow it some requests only.
func (c *consul) part(source string) *destination {
	for _, name := range slices.Sorted(maps.Keys(c.destinations)) {
		d := c.destinations[name]
		i := d.intentions[source]
		if i == nil {
			i = d.intentions[wildcard]
		}
		if name != wildcard && i != nil && i.permissions != nil {
			return d
		}
	}
	return nil
}
