package identity

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/intramesh/mesh/internal/atomicfile"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// StepCA keeps two files. identity.pem holds the key and its chain together, so that no crash
// parts them; it is written last, and without it there is no state. roots.pem starts with the
// fingerprint that the roots were first trusted by. Both are ordinary PEM for other programs.
const (
	identityFile  = "identity.pem"
	rootsFile     = "roots.pem"
	anchorPrefix  = "# trusted by the fingerprint "
	maxStateBytes = 256 << 10
)

// state is what StepCA remembers across restarts.
type state struct {
	svid   *x509svid.SVID
	bundle *x509bundle.Bundle
	anchor string // the configured fingerprint at the time of enrolment
}

// loadState reads dir. It returns nil and no error when nothing was ever stored there.
func loadState(dir string) (*state, error) {
	if dir == "" {
		return nil, nil
	}
	id, err := readFile(filepath.Join(dir, identityFile), maxStateBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	roots, err := readFile(filepath.Join(dir, rootsFile), maxStateBytes)
	if err != nil {
		return nil, err
	}
	s, err := parseState(id, roots)
	if err != nil {
		return nil, fmt.Errorf("the state in %s is damaged, remove it to enrol with a new token: %w", dir, err)
	}
	return s, nil
}

// parseState checks that the key, the chain and the ID belong together; not that the chain
// verifies, since it may have expired.
func parseState(id, roots []byte) (*state, error) {
	certs, key, err := parsePair(id, id)
	if err != nil {
		return nil, err
	}
	of, err := x509svid.IDFromCert(certs[0])
	if err != nil {
		return nil, err
	}
	svid := &x509svid.SVID{ID: of, Certificates: certs, PrivateKey: key}
	if err := checkSize(svid.Certificates); err != nil {
		return nil, err
	}
	bundle, err := parseRoots(svid.ID.TrustDomain(), roots)
	if err != nil {
		return nil, err
	}
	first, _, _ := strings.Cut(string(roots), "\n")
	anchor, _ := strings.CutPrefix(first, anchorPrefix)
	return &state{svid, bundle, strings.TrimSpace(anchor)}, nil
}

func parseRoots(td spiffeid.TrustDomain, pem []byte) (*x509bundle.Bundle, error) {
	bundle, err := x509bundle.Parse(td, pem)
	if err != nil {
		return nil, err
	}
	if bundle.Empty() {
		return nil, errors.New("no root certificate found")
	}
	return bundle, nil
}

// save writes both files. Like saveRoots it does nothing without a directory.
func save(dir, anchor string, svid *x509svid.SVID, bundle *x509bundle.Bundle) error {
	if err := saveRoots(dir, anchor, bundle); err != nil || dir == "" {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(svid.PrivateKey)
	if err != nil {
		return err
	}
	text := pemText("PRIVATE KEY", der) + pemChain(svid.Certificates)
	return atomicfile.Write(filepath.Join(dir, identityFile), []byte(text), 0o600)
}

func saveRoots(dir, anchor string, bundle *x509bundle.Bundle) error {
	if dir == "" {
		return nil
	}
	text := anchorPrefix + anchor + "\n" + pemChain(bundle.X509Authorities())
	return atomicfile.Write(filepath.Join(dir, rootsFile), []byte(text), 0o600)
}
