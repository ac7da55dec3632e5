package policy

// APIVersion is what every [Document] says it is, and Kind the kind that has rules.
const (
	APIVersion = "mesh/v1"
	Kind       = "Authorization"
)

// The other kinds of a [Document].
const (
	// KindDefault decides where no rule does.
	KindDefault = "Default"
	// KindTokenIssuer says whose tokens tell who a request is made for.
	KindTokenIssuer = "TokenIssuer"
)

// An Action is what a document does with the requests that its rules match.
type Action string

// The actions. A deny wins over every allow; an audit never changes a verdict.
const (
	ActionAllow Action = "allow"
	ActionDeny  Action = "deny"
	ActionAudit Action = "audit"
)

// A Mode says whether a document counts.
type Mode string

const (
	// ModeEnforce documents decide. It is what an empty Mode means.
	ModeEnforce Mode = "enforce"
	// ModeDryRun documents are evaluated and recorded in [Decision.Shadow], never enforced.
	ModeDryRun Mode = "dryrun"
)

// A Document is one named part of the rules: mostly a policy, who may or may not call one service or several.
// Its JSON form is what operators write and what the bundle carries; "spec" there is the one of Spec,
// Default and TokenIssuer that Kind says.
//
// A value in a list matches exactly ("web"), by prefix ("web*"), by suffix ("*-web") or by
// presence ("*"); where a field is stricter, it says so. A list that is there must not be empty,
// but for the not… ones: leave the field out to mean any.
type Document struct {
	// APIVersion is [APIVersion], Kind is [Kind], [KindDefault] or [KindTokenIssuer].
	APIVersion string
	Kind       string
	Metadata   Metadata
	// Spec is the content of an Authorization.
	Spec Spec
	// Default is the content of a Default, TokenIssuer that of a TokenIssuer; else they are nil.
	Default     *DefaultSpec
	TokenIssuer *TokenIssuerSpec
}

// Metadata names a [Document].
type Metadata struct {
	// Name is unique in the mesh: 1 to 128 of a–z, 0–9, "-", "_" and ".".
	Name string `json:"name"`
	// Labels are for people and tools; no decision looks at them.
	Labels map[string]string `json:"labels,omitempty"`
}

// A Spec is the content of a [Document].
type Spec struct {
	// Service is the destination: "payments", everything below a prefix ("billing/*", which
	// is not billing itself), or "*" for all.
	Service string `json:"service"`
	Action  Action `json:"action"`
	Mode    Mode   `json:"mode,omitempty"`
	// Rules are alternatives. A document without rules matches nothing: an allow without
	// rules allows nobody.
	Rules []Rule `json:"rules,omitempty"`
}

// A Rule matches when one of From, one of To and all of When do. An absent part matches
// everything, so the empty rule matches every request to the service.
type Rule struct {
	From []Source    `json:"from,omitempty"`
	To   []Operation `json:"to,omitempty"`
	When []Condition `json:"when,omitempty"`
}

// A Source describes callers; all of its fields must hold. At least one is set.
type Source struct {
	// Services are callers by name: "orders", "checkout/*" or "*". Names are compared
	// as parts of a SPIFFE ID, so a prefix ends at a "/" and there is no suffix match.
	// They are names in the mesh's own trust domain, unless TrustDomains is set.
	Services []string `json:"services,omitempty"`
	// NotServices are the callers that do not match, written like Services. A caller of a
	// trust domain that is not meant is none of them.
	NotServices []string `json:"notServices,omitempty"`
	// TrustDomains are exact, or "*".
	TrustDomains    []string `json:"trustDomains,omitempty"`
	NotTrustDomains []string `json:"notTrustDomains,omitempty"`
	// IPs are addresses and CIDR prefixes that the caller's address must be in.
	IPs    []string `json:"ips,omitempty"`
	NotIPs []string `json:"notIps,omitempty"`
}

// An Operation describes what is asked for; all of its fields must hold. At least one is
// set. Ports are known everywhere; Methods, Paths and Hosts only for an HTTP request, GRPC only for
// a gRPC call. Where a field is not known, an allow rule does not match and a deny rule does.
type Operation struct {
	// Ports are named ports; "" is the default one.
	Ports []string `json:"ports,omitempty"`
	// Methods are HTTP methods, compared as sent.
	Methods []string `json:"methods,omitempty"`
	// Paths are matched against the decoded, cleaned path, without query. Beside a "*" at an end, a
	// path may be a template: "/v1/{id}/refund", where {id} is exactly one segment, and
	// "/v1/{rest...}", where {rest...} is whatever follows "/v1/", even nothing.
	Paths []string `json:"paths,omitempty"`
	// Hosts are lower case, without port.
	Hosts []string `json:"hosts,omitempty"`
	// GRPC are methods such as "pay.v1.Payments/Charge" and "pay.v1.Payments/*".
	GRPC []string `json:"grpc,omitempty"`
}

// A Condition looks at one value of the request. At least one of Values and NotValues is set.
//
// Key is one of:
//
//	request.header.NAME      an HTTP header, or gRPC metadata
//	request.jwt.iss          the issuer of the request's token; sub and aud likewise
//	request.jwt.claim.NAME   any claim; NAME.SUB is a member of it
//	request.jwt.claim[NAME]  the same, for a name with dots: request.jwt.claim[https://x.example/roles][eu]
//	request.jwt.claim.NAME[] the values of a claim that is a list, together; request.jwt.aud[] likewise
//	source.ip                Values are addresses and CIDR prefixes
//	destination.port         the named port, "" for the default one
//
// A header that comes several times matches an allow rule only if every value does, and a deny
// or audit rule if any does. Since whoever forwards a request may join lines by commas (RFC 9110, section 5.3), a line with
// commas is a value as a whole, and so is each of its elements: a deny of "b" also denies "a, b", and an allow of "a*" needs
// "a1, a2" to match in each. To mean a line with a comma, name it in full: an allow that has it among its Values, or a
// deny that has it among its NotValues, does not take it apart. An absent header matches no
// Values, and any NotValues. A header of more than a thousand elements is not known. Headers that no rule could see are not accepted: Host (see
// [Operation]), gRPC's own, those that frame the message and those that claim an identity.
//
// A claim that is a list is like a header that comes several times, but not taken apart at commas. With [] after its
// name, its values count together, in an allow as in a deny: one of them must be one of Values, none may be
// one of NotValues. A claim that is an empty list, or that the token does not have,
// is like an absent header. Numbers and booleans are compared as the token writes them. Without a valid token
// of one of the mesh's issuers (see [TokenIssuerSpec]) every claim is unavailable, which is not empty: an allow rule
// that looks at one does not match and a deny rule does, also by its NotValues. No token at all is no
// exception, or leaving it out would get around a rule. So is a claim that is no text, number, boolean or list of these.
type Condition struct {
	Key       string   `json:"key"`
	Values    []string `json:"values,omitempty"`
	NotValues []string `json:"notValues,omitempty"`
}

// Limits on what is accepted. They bound what one document can cost every member.
const (
	MaxDocuments = 20_000   // documents in a file or bundle
	MaxRules     = 10_000   // rules in a document
	MaxEntries   = 100      // entries in a rule's from, to and when
	MaxValues    = 1_000    // values in a list
	MaxValueLen  = 1 << 10  // bytes in a value
	MaxLabels    = 64       // labels of a document
	MaxIssuers   = 64       // documents that are a TokenIssuer
	MaxJWKS      = 64 << 10 // bytes in a TokenIssuer's keys
	maxDepth     = 16       // nesting of JSON values
	// MaxRevocations bounds those of a bundle. Beyond, revoke IDs rather than single certificates, or change the authority.
	MaxRevocations = 10_000
)
