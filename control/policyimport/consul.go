package policyimport

import (
	"maps"
	"slices"
	"strings"

	"github.com/intramesh/mesh/policy"
)

// Consul translates service-intentions config entries, in HCL or JSON, and the Kubernetes objects of kind
// ServiceIntentions that hold the same. Entries of other kinds are noted and passed over. Services have the names that
// they have there; those of other namespaces, partitions and peers are left out. Its error is a
// [*policy.ParseError].
//
// There, the intention with the most exact destination, then source, decides alone, and its permissions in order; what
// none decides is denied, as with default_policy "deny". Here a deny wins over every allow.
//
// The format is that of https://developer.hashicorp.com/consul/docs/reference/config-entry/service-intentions.
func Consul(files []File) (*Result, error) {
	im, err := newImporter(files)
	if err != nil {
		return nil, err
	}
	c := &consul{im: im, destinations: make(map[string]*destination)}
	for _, f := range files {
		list, err := nodes(f, readConsul, true)
		if err != nil {
			return nil, err
		}
		for _, n := range list {
			if err := c.entry(newObject(f.Name, n, true)); err != nil {
				return nil, err
			}
		}
	}
	c.write()
	return im.done()
}

const wildcard = "*"

// consul is the state of an import.
type consul struct {
	im           *importer
	destinations map[string]*destination
}

// A destination is what intentions with one destination say, by the name of the source.
type destination struct {
	scope
	name       string
	at         Place
	intentions map[string]*intention
}

// An intention decides for one source: all, none, or by permissions.
type intention struct {
	at          Place
	allow       bool
	permissions []permission // nil: allow decides
}

// A permission is one rule of an intention. Without operations it is one that can't be said.
type permission struct {
	at    Place
	allow bool
	to    []alternative[policy.Operation]
}

func (i *intention) denies() bool { return i != nil && !i.allow && i.permissions == nil }

func (c *consul) entry(o object) error {
	if o.node.Kind == policy.NodeList {
		for _, n := range o.node.Items {
			if err := c.entry(newObject(o.file, n, true)); err != nil {
				return err
			}
		}
		return nil
	}
	if !o.isObject() {
		return refuse(o.place(), "want a config entry")
	}
	s := scope{importer: c.im, file: o.file}
	kind, version := o.text("kind"), o.text("apiVersion")
	fields := o
	switch {
	case kind == "service-intentions" && version == "":
	case kind == "ServiceIntentions" && strings.HasPrefix(version, "consul.hashicorp.com/"):
		o.get("metadata")
		o.get("status")
		fields = o.object("spec")
	default:
		s.noteAt(o.place(), "%s: passed over; only service-intentions are read", orNone(kind))
		return nil
	}
	d, lost := c.destination(s, o, fields)
	for _, field := range []string{"kind", "meta", "hash", "createIndex", "modifyIndex", "raftIndex"} {
		fields.get(field)
	}
	if d == nil {
		return refuse(o.place(), "%s has an entry already; one would replace the other", fields.text("name"))
	}
	sources := fields.list("sources")
	closed := false
	for _, m := range append(fields.rest(), o.rest()...) {
		if m.Value == nil || m.Value.Kind != policy.NodeNull {
			s.noteAt(Place{o.file, m.Line, m.Column}, "%s: this can't be said here; the entry allows nobody", m.Key)
			closed = true
		}
	}
	for _, n := range sources {
		if err := c.source(d, newObject(o.file, n, true), lost, closed); err != nil {
			return err
		}
	}
	return nil
}

// destination returns what an entry is for, nil when there is one for it. lost says why it is not imported, "" that it is.
func (c *consul) destination(s scope, o, fields object) (d *destination, lost string) {
	at := fields
	if o.text("kind") == "ServiceIntentions" {
		at = fields.object("destination")
	}
	name := at.text("name")
	if foreign(at) {
		lost = "only the default namespace and partition are imported"
	} else if name != wildcard {
		if err := s.validService(name); err != nil {
			lost = err.Error()
		}
	}
	if strings.HasSuffix(name, wildcard) && name != wildcard {
		lost = "it is a pattern"
	}
	d = &destination{scope: s, name: name, at: o.place(), intentions: make(map[string]*intention)}
	if lost == "" && c.destinations[name] != nil {
		return nil, ""
	}
	if lost == "" {
		c.destinations[name] = d
	}
	return d, lost
}

// foreign reports whether something is of another namespace or partition.
func foreign(o object) bool {
	for _, field := range []string{"namespace", "partition"} {
		if v := o.text(field); v != "" && v != "default" {
			return true
		}
	}
	return false
}

// source adds an intention. An entry that is closed allows nobody.
func (c *consul) source(d *destination, o object, lost string, closed bool) error {
	if !o.isObject() {
		return refuse(o.place(), "want a source")
	}
	name, action := o.text("name"), o.text("action")
	i := &intention{at: o.place(), allow: action == "allow"}
	permissions := o.list("permissions")
	switch {
	case name == "":
		return refuse(i.at, "a source without a name")
	case d.intentions[name] != nil && !o.elsewhere():
		return refuse(i.at, "%s to %s is there twice", name, d.name)
	case len(permissions) == 0 && action != "allow" && action != "deny", len(permissions) > 0 && action != "":
		return refuse(i.at, "want an action, allow or deny, or permissions")
	}
	why := lost
	if o.elsewhere() {
		why = "only sources of the default namespace and partition, and of no peer, are imported"
	} else if err := d.valid(policy.Rule{From: []policy.Source{{Services: []string{name}}}}); err != nil || strings.Contains(name, wildcard) && name != wildcard {
		why = "no service can have the name"
	}
	for _, field := range []string{"type", "description", "precedence", "legacyID", "legacyMeta", "legacyCreateTime", "legacyUpdateTime"} {
		o.get(field)
	}
	unknown := len(o.rest()) > 0 || o.text("type") != "" && o.text("type") != "consul"
	switch {
	case why != "" && i.denies():
		d.widens(i.at, "deny of %s to %s: %s; left out", name, d.name, why)
		return nil
	case why != "":
		d.noteAt(i.at, "%s to %s: %s; left out", name, d.name, why)
		return nil
	case closed: // and no intention of less precedence decides
		i = &intention{at: i.at}
	case unknown:
		d.noteAt(i.at, "%s to %s: it has fields that can't be said here; denied", name, d.name)
		i = &intention{at: i.at}
	case len(permissions) > 0:
		i.permissions = make([]permission, len(permissions))
		for k, n := range permissions {
			i.permissions[k] = d.permission(newObject(o.file, n, true))
		}
	}
	d.intentions[name] = i
	return nil
}

func (o object) elsewhere() bool {
	return foreign(o) || o.text("peer") != "" || o.text("samenessGroup") != ""
}

// sources returns the names of all sources, sorted.
func (c *consul) sources() []string {
	all := make(map[string]bool)
	for _, d := range c.destinations {
		for name := range d.intentions {
			all[name] = true
		}
	}
	delete(all, wildcard)
	return slices.Sorted(maps.Keys(all))
}
