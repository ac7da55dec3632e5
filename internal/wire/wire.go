// Package wire holds what members and the control plane say to each other over the mesh.
package wire

// ControlService is the service name of the control plane. Names below "mesh/" are
// reserved: no token enrols one.
const ControlService = "mesh/control"

// Paths that the control plane serves to members, over the mesh.
const (
	// PathJoin answers GET with a [Join].
	PathJoin = "/v1/join"
	// PathBundle answers GET with a signed bundle newer than the query's "after", or with 204
	// when there is none within the query's "wait" (a Go duration, held to less than a minute).
	// The query's "refused" and "reason" report a bundle that the member did not take; "instance" says who.
	// Each "warning" is something in the rules that a listener of the member can't evaluate.
	PathBundle = "/v1/bundle"
)

// MaxJoinBytes bounds a [Join] document, MaxBundleBytes a signed bundle.
const (
	MaxJoinBytes   = 64 << 10
	MaxBundleBytes = 16 << 20
)

// MaxWarnings bounds how many warnings a member reports, MaxWarning the bytes of each.
const (
	MaxWarnings = 16
	MaxWarning  = 300
)

// A Join is what a member needs to take part in the gossip.
type Join struct {
	// GossipKeys are the pool's AES-256 keys; the first one encrypts, all decrypt.
	GossipKeys [][]byte `json:"gossip_keys"`
	// Seeds are "host:port" of members to join through.
	Seeds []string `json:"seeds"`
}
