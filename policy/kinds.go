package policy

import (
	"encoding/json"
	"fmt"
)

// A DefaultSpec is the content of a [Document] that says what holds for a service where no rule says otherwise. Of
// several, the one whose service is written most exactly counts, for each field by itself. At least one of Verdict and
// Denials is set.
type DefaultSpec struct {
	// Service is written like [Spec].Service; "*" is the whole mesh. There is at most one Default for each.
	Service string `json:"service"`
	// Verdict decides when no rule does: [ActionAllow] or [ActionDeny]. Without one, that is deny. Allow is for
	// migration: the reason of a decision tells that the default allowed it.
	Verdict Action `json:"verdict,omitempty"`
	// Denials says what callers are told of theirs. Without one, they are explained.
	Denials Denials `json:"denials,omitempty"`
}

// Denials says what callers are told of a denial, besides that it is one. The decision log has all of it in any case.
// Callers of other trust domains are told nothing in any case.
type Denials string

const (
	// DenialsExplained tells callers the policy, the rule, the version and the reason. That is no secret to them: each
	// member of the mesh holds all of its rules. What it does tell whoever can make a member repeat it (an end
	// user, for example) is more than such a person might be meant to know; hence the other one.
	DenialsExplained Denials = "explained"
	// DenialsBare tells them no more than that they are denied.
	DenialsBare Denials = "bare"
)

// A TokenIssuerSpec is the content of a [Document] that names an issuer of JSON Web Tokens (RFC 7519), whose claims rules
// may look at; see [Condition]. A request's token is valid when one of the keys signed it, it is one
// of the audiences', it has an expiry and that is not reached, and its time has come.
//
// A request may carry one token, in one of the headers that the mesh's issuers name. With several, none counts.
type TokenIssuerSpec struct {
	// Issuer is the token's "iss", compared as text. There is at most one TokenIssuer for each.
	Issuer string `json:"issuer"`
	// Audiences is required: one of them must be in the token's "aud". Else a token that the issuer
	// made for somebody else would count here.
	Audiences []string `json:"audiences"`
	// JWKSURL is where the issuer's keys are, https only. JWKS has them here instead, as the text of a JSON Web
	// Key Set (RFC 7517). One of the two is set.
	JWKSURL string `json:"jwksURL,omitempty"`
	JWKS    string `json:"jwks,omitempty"`
	// Header is where the token is; empty means "authorization", and there it follows the scheme Bearer. In
	// another header that is optional.
	Header string `json:"header,omitempty"`
	// ClockSkew is how far the issuer's clock may be off, a Go duration of at most 5m; empty means 60s. It counts for
	// the expiry too.
	ClockSkew string `json:"clockSkew,omitempty"`
	// Algorithms are those of RFC 7518 and RFC 8037 that may have signed: RS256, RS384, RS512, PS256, PS384, PS512, ES256,
	// ES384, ES512, EdDSA. Empty means ES256, RS256 and EdDSA.
	Algorithms []string `json:"algorithms,omitempty"`
}

// documentHead is what a document's JSON has besides its spec, in the order that people read.
type documentHead struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Metadata   Metadata `json:"metadata"`
}

// content returns the field that is the document's "spec", a pointer.
func (d *Document) content() any {
	switch d.Kind {
	case KindDefault:
		if d.Default == nil {
			d.Default = new(DefaultSpec)
		}
		return d.Default
	case KindTokenIssuer:
		if d.TokenIssuer == nil {
			d.TokenIssuer = new(TokenIssuerSpec)
		}
		return d.TokenIssuer
	}
	return &d.Spec
}

// MarshalJSON writes the document as operators do.
func (d Document) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		documentHead
		Spec any `json:"spec"`
	}{documentHead{d.APIVersion, d.Kind, d.Metadata}, d.content()})
}

// UnmarshalJSON reads what MarshalJSON wrote. It checks nothing: what people write goes through [Parse].
func (d *Document) UnmarshalJSON(data []byte) error {
	var in struct {
		documentHead
		Spec json.RawMessage `json:"spec"`
	}
	if err := json.Unmarshal(data, &in); err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	*d = Document{APIVersion: in.APIVersion, Kind: in.Kind, Metadata: in.Metadata}
	if len(in.Spec) == 0 {
		return nil
	}
	if err := json.Unmarshal(in.Spec, d.content()); err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	return nil
}
