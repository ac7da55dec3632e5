// Package wire holds what members and the control plane say to each other over the mesh.
package wire

import "time"

// ControlService is the service name of the control plane. Names below "mesh/" are
// reserved: no token enrols one.
const ControlService = "mesh/control"

// Paths that the control plane serves to members, over the mesh.
const (
	// PathJoin answers GET with a [Join]. The query's "observes" says that the caller can do without keys: it gets none when the pool has
	// more members than ObserveBeyond.
	PathJoin = "/v1/join"
	// PathBundle answers GET with a signed bundle newer than the query's "after", or with 204
	// when there is none within the query's "wait" (a Go duration, held to less than a minute). Until then it says 102 every
	// [PollBeat]; a member that hears nothing for [PollSilence] looks elsewhere.
	// The query's "refused" and "reason" report a bundle that the member did not take; "instance" says who.
	// Each "warning" is something in the rules that a listener of the member can't evaluate. "keys" are the names of the
	// member's gossip keys, comma-separated and in order: when they are others than the pool's the answer is 205, at once, and
	// PathJoin has them. "observes" says that the member is an observer of the pool.
	// Each "root" is the SHA-256, in hex, of a root that the member trusts, "issuer" that of the certificate which signed
	// its own. Each "warning" is something in the rules that a listener of the member can't evaluate.
	PathBundle = "/v1/bundle"
)

// Times of a poll at PathBundle.
const (
	PollBeat    = 10 * time.Second
	PollSilence = 15 * time.Second
)

// MaxJoinBytes bounds a [Join] document, MaxBundleBytes a signed bundle.
const (
	MaxJoinBytes   = 64 << 10
	MaxBundleBytes = 16 << 20
)

// MaxRoots bounds how many roots a member reports.
const MaxRoots = 8

// MaxWarnings bounds how many warnings a member reports, MaxWarning the bytes of each.
const (
	MaxWarnings = 16
	MaxWarning  = 300
)

// A Join is what a member needs to take part in the gossip.
type Join struct {
	// GossipKeys are the pool's AES-256 keys; the first one encrypts, all decrypt. An observer gets none.
	GossipKeys [][]byte `json:"gossip_keys,omitempty"`
	// ObserveBeyond is how many members the pool has before those observe it that only dial; 0 lets nobody.
	ObserveBeyond int `json:"observe_beyond,omitempty"`
	// ProbeInterval is the time between a member's probes of others, in nanoseconds; 0 is the default.
	ProbeInterval time.Duration `json:"probe_interval,omitempty"`
	// Seeds are members to join through, as gossip.Config.Seeds has them.
	Seeds []string `json:"seeds"`
	// CAs are the URLs of the servers of the certificate authority, as far as the control plane has it.
	CAs []string `json:"cas,omitempty"`
}

// PathEnrol is where the control plane takes an [EnrolRequest] over HTTPS, from a process that has no certificate yet,
// and answers with an [EnrolAnswer]. A refusal is an answer as step-ca's, {"status": …, "message": …}.
const PathEnrol = "/mesh/v1/enrol"

// What an [EnrolRequest] can show.
const (
	// ProofToken is a join token of "mesh token".
	ProofToken = "token"
	// ProofKubernetes is a projected service-account token.
	ProofKubernetes = "kubernetes"
	// ProofX509 is a JSON Web Token signed with the key of the certificate in its header "x5c", as step-ca's X5C
	// provisioner takes it.
	ProofX509 = "x509"
)

// JoinTokenPrefix is how every join token starts; a one-time token of step-ca is a JWT.
const JoinTokenPrefix = "mjt1."

// An EnrolRequest asks for a one-time token of the certificate authority.
type EnrolRequest struct {
	// Kind says what Proof is.
	Kind  string `json:"kind"`
	Proof string `json:"proof"`
	// Service is the name to get a certificate for.
	Service string `json:"service"`
	// CSR is the SHA-256 of the certificate request, DER, in base64url without padding. The one-time token is good for
	// that request alone, and asking again for the same one does not use up more of the proof.
	CSR string `json:"csr"`
}

// An EnrolAnswer is what to sign with.
type EnrolAnswer struct {
	OTT string `json:"ott"`
}

// EnrolAudience is whom a proof of kind [ProofX509] is for.
func EnrolAudience(trustDomain string) string { return "mesh:" + trustDomain }
