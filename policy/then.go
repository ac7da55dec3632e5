package policy

import "context"

// Then returns an Authorizer that asks rules, and if they allow, asks own as well: both must. own is for what
// a document can't say. It gets connections too, at [LayerConnection] and there with Deferred set when requests will
// follow: to decide requests alone, allow those. A Decision of own without a Policy or a Reason is completed, so that a
// denial says where it comes from; name is what it is called there. Whether callers are told is up to the rules.
//
// Open connections are decided again when rules change, own included. own must not block: it is asked for every
// connection and request.
func Then(rules Authorizer, name string, own AuthorizerFunc) Authorizer {
	return &then{rules: rules, name: name, own: own}
}

type then struct {
	rules Authorizer
	name  string
	own   AuthorizerFunc
}

func (t *then) Authorize(ctx context.Context, r *Request) Decision {
	d := t.rules.Authorize(ctx, r)
	d.HeadersUnused = false // own may look
	if d.Verdict != Allow {
		return d
	}
	o := t.own(ctx, r)
	if o.Verdict == Allow {
		if !o.NotAfter.IsZero() && (d.NotAfter.IsZero() || o.NotAfter.Before(d.NotAfter)) {
			d.NotAfter = o.NotAfter
		}
		return d
	}
	o.Layer, o.Version, o.Shadow, o.Tell, o.HeadersUnused = r.Layer, d.Version, d.Shadow, d.Tell, false
	if o.Policy == "" {
		o.Policy, o.Rule = t.name, -1
	}
	if o.Reason == "" {
		o.Reason = t.name + " refuses"
	}
	return o
}

// Changed is that of the rules; nil, which is never, when they do not change.
func (t *then) Changed() <-chan struct{} {
	if c, ok := t.rules.(interface{ Changed() <-chan struct{} }); ok {
		return c.Changed()
	}
	return nil
}

// Pin is what [Pinned] calls.
func (t *then) Pin(r *Request) Authorizer {
	return &then{rules: Pinned(t.rules, r), name: t.name, own: t.own}
}

// Early is that of the rules: own can only deny more.
func (t *then) Early(r *Request, callee uint64) (Decision, bool) {
	if e, ok := t.rules.(interface {
		Early(r *Request, callee uint64) (Decision, bool)
	}); ok {
		return e.Early(r, callee)
	}
	return Decision{}, false
}

// EngineOf returns the engine that an Authorizer of this package decides by, or one with a method
//
//	Engine() *Engine
//
// Nil means that it has none, for now.
func EngineOf(a Authorizer) *Engine {
	switch a := a.(type) {
	case *Engine:
		return a
	case interface{ Engine() *Engine }:
		return a.Engine()
	}
	return nil
}

// Engine is that of the rules.
func (t *then) Engine() *Engine { return EngineOf(t.rules) }
