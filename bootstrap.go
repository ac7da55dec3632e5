package mesh

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/intramesh/mesh/internal/strictjson"
)

// A Bootstrap is what a new process needs to find a control plane, to trust it, and to be let
// in. "mesh token SERVICE" prints one, ready for the environment variable
// MESH_BOOTSTRAP. It may hold a secret, the token: String and slog show it without.
type Bootstrap struct {
	// TrustDomain is the mesh's SPIFFE trust domain, "prod.example".
	TrustDomain string `json:"trust_domain"`
	// Service is the name that the token enrols. It is empty when the token enrols several, and
	// Config.Service says which.
	Service string `json:"service,omitempty"`
	// CA is the URL of the control plane's certificate authority (the step-ca HTTP API).
	CA string `json:"ca"`
	// OtherCAs are URLs of more servers of that authority: replicas of the control plane.
	OtherCAs []string `json:"other_cas,omitempty"`
	// Enrol is the URL where the control plane takes join tokens and proofs, when that is another server than CA.
	Enrol string `json:"enrol,omitempty"`
	// RootFingerprint is the SHA-256 of the root certificate, in hex.
	RootFingerprint string `json:"root"`
	// Control lists "host:port" where the control plane takes members' connections.
	Control []string `json:"control"`
	// Peers lists "host:port" of members' listeners to ask for rules and for how to gossip when the control plane can't
	// be reached. It may be empty: members that gossip find each other.
	Peers []string `json:"peers,omitempty"`
	// BundleKeys are the Ed25519 public keys that sign the rules.
	BundleKeys [][]byte `json:"bundle_keys"`
	// Token is the join token. It may be empty when the state directory already holds a
	// certificate.
	Token string `json:"token,omitempty"`
	// KubernetesToken is the file of a projected service-account token to enrol with instead. It is read
	// at each use.
	KubernetesToken string `json:"kubernetes_token,omitempty"`
	// CertFile and KeyFile are PEM files of a certificate, of an authority that the control plane has been told
	// of, to enrol with instead. They are read at each use.
	CertFile string `json:"cert_file,omitempty"`
	KeyFile  string `json:"key_file,omitempty"`
}

const (
	bootstrapPrefix = "mesh1."
	maxBootstrap    = 64 << 10
)

// ErrNoBootstrap is returned by [BootstrapFromEnv] when MESH_BOOTSTRAP is not set.
var ErrNoBootstrap = errors.New(`mesh: MESH_BOOTSTRAP is not set: run "mesh token SERVICE" where the control plane runs, and put what it prints there`)

// BootstrapFromEnv reads MESH_BOOTSTRAP, which holds either what "mesh token" printed, or the
// name of a file that does.
func BootstrapFromEnv() (*Bootstrap, error) {
	v := strings.TrimSpace(os.Getenv("MESH_BOOTSTRAP"))
	if v == "" {
		return nil, ErrNoBootstrap
	}
	if strings.HasPrefix(v, bootstrapPrefix) {
		return ParseBootstrap(v)
	}
	f, err := os.Open(v) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, fmt.Errorf("mesh: MESH_BOOTSTRAP is neither a bootstrap value (%s…) nor a readable file: %w", bootstrapPrefix, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxBootstrap+1))
	if err != nil {
		return nil, fmt.Errorf("mesh: MESH_BOOTSTRAP: %w", err)
	}
	return ParseBootstrap(string(b))
}

// ParseBootstrap reads what [Bootstrap.Encode] wrote. Its errors never contain the value.
func ParseBootstrap(s string) (*Bootstrap, error) {
	s = strings.TrimSpace(s)
	if len(s) > maxBootstrap {
		return nil, fmt.Errorf("mesh: bootstrap value is longer than %d bytes", maxBootstrap)
	}
	body, ok := strings.CutPrefix(s, bootstrapPrefix)
	if !ok {
		return nil, fmt.Errorf("mesh: bootstrap value does not start with %q", bootstrapPrefix)
	}
	raw, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil {
		return nil, errors.New("mesh: bootstrap value is damaged: not base64url (was it cut off when it was copied?)")
	}
	var b Bootstrap
	if err := strictjson.Unmarshal(raw, &b); err != nil {
		return nil, errors.New("mesh: bootstrap value is damaged: not the expected JSON")
	}
	if err := b.check(); err != nil {
		return nil, fmt.Errorf("mesh: bootstrap value: %w", err)
	}
	return &b, nil
}

func (b *Bootstrap) check() error {
	switch {
	case b.TrustDomain == "":
		return errors.New("trust_domain is missing")
	case b.CA == "":
		return errors.New("ca is missing")
	case len(b.RootFingerprint) != 64:
		return errors.New("root is not a SHA-256 in hex")
	case len(b.Control) == 0:
		return errors.New("control is missing")
	case len(b.BundleKeys) == 0:
		return errors.New("bundle_keys is missing")
	}
	return nil
}

// signers are BundleKeys by their type. Their length is not checked.
func (b *Bootstrap) signers() []ed25519.PublicKey {
	keys := make([]ed25519.PublicKey, len(b.BundleKeys))
	for i, k := range b.BundleKeys {
		keys[i] = k
	}
	return keys
}

// Encode returns the value to put into MESH_BOOTSTRAP, the token included: treat it as
// a password.
func (b *Bootstrap) Encode() string {
	raw, err := json.Marshal(b)
	if err != nil {
		panic("mesh: a struct of strings did not marshal: " + err.Error())
	}
	return bootstrapPrefix + base64.RawURLEncoding.EncodeToString(raw)
}

// String describes the bootstrap without its token.
func (b *Bootstrap) String() string {
	return fmt.Sprintf("bootstrap of %s at %s", b.TrustDomain, b.CA)
}

// LogValue keeps the token out of logs.
func (b *Bootstrap) LogValue() slog.Value { return slog.StringValue(b.String()) }
