// Package policy answers may it: who may call what. It holds the rules' document, the
// engine that decides, and the signed bundle by which the rules travel.
//
// # Documents
//
// A [Document] allows, denies or audits calls to a service. [Parse] reads JSON; other formats
// go through a [Node] tree and [Decode]. Both are strict: what is not understood is an error that
// names the line and the field, never dropped.
//
// # Decisions
//
// [Compile] makes an [Engine] of documents, [Static] does without a bundle. Of the enforced
// documents for the service, any deny that matches denies; else any allow that matches allows; else the
// default does, which is no unless a document of kind Default says otherwise; such a document also says whether callers
// are told why they are denied ([Denials]). What a layer can't see (the path, when a connection is accepted) is unavailable, which
// is not empty: an allow that needs it does not match and a deny does. [Engine.Explain] tells how each
// policy saw a request. [Lint] tells what in documents is likely a mistake, [Engine.Check] what a listener
// can't evaluate.
//
// # Tokens
//
// Rules may look at the claims of a JSON Web Token, by which a request says for which user it is made. A document of
// kind TokenIssuer says whose tokens count; a [TokenVerifier], such as package policy/jwt has, verifies them, and
// only when a rule asks.
//
// # Bundles
//
// All rules of a mesh travel as one [Bundle] with a version that only grows, made by [Sign] and read by
// [Open]. A [Syncer] follows the control plane, keeps the last good bundle on disk, and is the Authorizer of
// a member; before its first bundle it denies everything. A [Revocation] in a bundle takes trust away from certificates
// that have not expired.
package policy

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// An Authorizer decides connections and requests. It is safe for concurrent use,
// answers from memory, and must fail closed: when in doubt it denies.
//
// An Authorizer whose answers can change may also have
//
//	Changed() <-chan struct{} // closed at the next change; call again for the one after
//
// so that open connections are decided again at once, and
//
//	Early(r *Request, callee uint64) (Decision, bool) // see [Engine.Early]
//
// so that a caller need not make calls that the callee would surely deny, and
//
//	Pin(r *Request) Authorizer // see [Pinned]
//
// so that what concerns a connection is looked up once.
type Authorizer interface {
	// Authorize decides one request. It must not keep or modify r.
	Authorize(ctx context.Context, r *Request) Decision
}

// AuthorizerFunc makes a function an [Authorizer].
type AuthorizerFunc func(ctx context.Context, r *Request) Decision

// Authorize calls f.
func (f AuthorizerFunc) Authorize(ctx context.Context, r *Request) Decision { return f(ctx, r) }

// A Layer is where a decision is taken; it says which fields of a [Request] are known.
type Layer uint8

const (
	// LayerConnection decides when a connection is accepted: only the peer, the
	// service and the named port are known.
	LayerConnection Layer = iota
	// LayerHTTP decides one HTTP request.
	LayerHTTP
	// LayerGRPC decides one gRPC call.
	LayerGRPC
)

// String returns "connection", "http" or "grpc".
func (l Layer) String() string {
	switch l {
	case LayerConnection:
		return "connection"
	case LayerHTTP:
		return "http"
	case LayerGRPC:
		return "grpc"
	}
	return "invalid"
}

// MarshalText returns what String does.
func (l Layer) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText accepts what String returns.
func (l *Layer) UnmarshalText(b []byte) error {
	for c := LayerConnection; c <= LayerGRPC; c++ {
		if c.String() == string(b) {
			*l = c
			return nil
		}
	}
	return fmt.Errorf("policy: unknown layer %q", b)
}

// A Request is what a rule may look at. Fields that the Layer does not know are
// unavailable, which is not the same as empty: an allow rule that needs one does not match, a
// deny rule that needs one does.
type Request struct {
	// Layer says which of the fields below are known.
	Layer Layer
	// Deferred is set at [LayerConnection] when each request of the connection will be
	// decided on its own: the question then is whether some request could be allowed.
	Deferred bool

	// Source is the caller's verified identity; the zero ID is unavailable.
	Source spiffeid.ID
	// SourceAddr is the caller's address; an invalid one is unavailable.
	SourceAddr netip.Addr
	// Destination is the service that is called.
	Destination string
	// Port is the named port, "" for the default one.
	Port string

	// Method, Path, Host and Header are known at LayerHTTP. They are canonical:
	// exactly what the handler will see. Path is decoded; Host is lower case, without port.
	Method, Path, Host string
	Header             http.Header

	// GRPCMethod is known at LayerGRPC: "pay.v1.Payments/Charge", without a leading slash.
	// Header holds the call's metadata there.
	GRPCMethod string

	// Tokens verifies the token in Header when a rule looks at its claims; nil leaves them unavailable.
	Tokens TokenVerifier
	// Claims are those of a token that was verified already, as in [Token]; nil asks Tokens.
	Claims map[string]any
}

// A Verdict is the outcome of a decision. The zero Verdict is [Deny].
type Verdict uint8

const (
	// Deny refuses. It is the zero value, so that forgetting to decide refuses.
	Deny Verdict = iota
	// Allow lets through.
	Allow
)

// String returns "deny" or "allow".
func (v Verdict) String() string {
	if v == Allow {
		return "allow"
	}
	return "deny"
}

// MarshalText returns what String does.
func (v Verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText accepts "allow" and "deny".
func (v *Verdict) UnmarshalText(b []byte) error {
	switch string(b) {
	case "allow":
		*v = Allow
	case "deny":
		*v = Deny
	default:
		return fmt.Errorf("policy: unknown verdict %q", b)
	}
	return nil
}

// A Decision is a verdict and what led to it. It is returned by value for every request: beyond 96 bytes that costs a
// seventh more time.
type Decision struct {
	Verdict Verdict `json:"verdict"`
	// Layer is where the decision was taken.
	Layer Layer `json:"layer"`
	// Tell says that the caller may be told all of this, should it be a denial; see [Denials]. Else it gets what
	// [Decision.Told] leaves. It is for this side only.
	Tell bool `json:"-"`
	// HeadersUnused says that no rule for the destination looks at headers or tokens: with any others, or none, the
	// decision would have been the same. It is for this side only.
	HeadersUnused bool `json:"-"`
	// Policy is the name of the document that decided, "" when none did.
	Policy string `json:"policy,omitempty"`
	// Rule is the index of the rule in that document, from 0; -1 when no rule decided but the default.
	Rule int `json:"rule"`
	// Version is the version of the bundle that was in force, 0 when there was none.
	Version uint64 `json:"version"`
	// NotAfter is when an allow ends by itself, since what it rests on does (a token, for example). The zero time is
	// never. It is for this side only.
	NotAfter time.Time `json:"-"`
	// Retry is set on a denial when something that it lacked is on its way (an issuer's keys, for example), and
	// closed when deciding again may come out otherwise. It is for this side only.
	Retry <-chan struct{} `json:"-"`
	// Reason says why, in words, for people: "no rule allows orders".
	Reason string `json:"reason"`
	// Shadow is what audit and dry-run documents made of it, nil when none matched. It is
	// for this side's log, and never sent to the peer.
	Shadow *Shadow `json:"-"`
}

// Told returns what the caller may know of a denial: all that is not for this side only if Tell is set, else the verdict
// and the layer.
func (d Decision) Told() Decision {
	if !d.Tell {
		return Decision{Verdict: d.Verdict, Layer: d.Layer, Rule: -1}
	}
	d.HeadersUnused, d.NotAfter, d.Retry, d.Shadow = false, time.Time{}, nil, nil
	return d
}

// String names what decided, "payments-callers[2]", and the reason.
func (d Decision) String() string {
	var b strings.Builder
	b.WriteString(d.Verdict.String())
	if d.Policy != "" {
		b.WriteString(" by ")
		b.WriteString(d.Policy)
		if d.Rule >= 0 {
			b.WriteString("[" + strconv.Itoa(d.Rule) + "]")
		}
	}
	if d.Reason != "" {
		b.WriteString(": ")
		b.WriteString(d.Reason)
	}
	return b.String()
}
