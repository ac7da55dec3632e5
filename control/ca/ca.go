// Package ca is the mesh's certificate authority: smallstep's, embedded, behind guards
// for what it leaves open. It serves the part of step-ca's HTTP API that enrolment and
// renewal need, and signs the control plane's own certificates in process.
package ca

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/intramesh/mesh/control/store"
	"github.com/smallstep/certificates/authority"
	"github.com/smallstep/certificates/authority/config"
	"github.com/smallstep/certificates/authority/provisioner"
	"github.com/smallstep/certificates/db"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.step.sm/crypto/jose"
)

const (
	// DefaultLifetime is how long a leaf certificate is valid.
	DefaultLifetime = 24 * time.Hour
	// MinLifetime is the shortest that leaves time to renew.
	MinLifetime = time.Minute

	// Certificates are valid for a while before they are made, which is not part of their lifetime: a clock that is five
	// minutes behind, and the seconds that times are cut to, do no harm. With a lifetime below an hour it is a tenth of
	// that, and at least a minute.
	minBackdate, maxBackdate = time.Minute, 6 * time.Minute
	// provisionerName is the issuer of tokens.
	provisionerName = "mesh"
)

// Config tells [Open] which CA to run.
type Config struct {
	// Dir was made by [Create].
	Dir string
	// DB keeps used tokens and issued and revoked certificates. The CA does not close it.
	DB store.DB
	// Host is the DNS name or IP address under which clients reach the CA: its server
	// certificate's name, and the audience of its tokens.
	Host string
	// Lifetime of leaf certificates, at least [MinLifetime]; 0 is [DefaultLifetime].
	// A renewed certificate keeps the lifetime that it was first issued with.
	Lifetime time.Duration
	// SealKey opens the keys of [Authorities]; it may be nil where there are none.
	SealKey []byte
	// Logger takes what is issued and refused; nil discards it.
	Logger *slog.Logger
}

// A CA is safe for concurrent use. Whoever opens it closes it.
type CA struct {
	cfg  Config
	keys keys
	td   spiffeid.TrustDomain
	db   db.AuthDB
	log  *slog.Logger
	own  leafCache // the HTTPS server's certificate

	external *external // signs instead of keys; nil when it does not

	trust atomic.Pointer[trust]

	// signing serialises smallstep's Authorize: it appends to a slice that all calls
	// share (provisioner.Audiences.All).
	signing sync.Mutex
	closed  sync.Once
	kms     kmses
}

// Open loads the CA in cfg.Dir. Several with the same keys can run on one store: what one issued another
// renews.
func Open(cfg Config) (*CA, error) {
	c, err := newCA(cfg)
	if err != nil {
		return nil, err
	}
	if err := c.open(); err != nil {
		c.kms.close()
		return nil, err
	}
	return c, nil
}

// newCA is one without keys.
func newCA(cfg Config) (*CA, error) {
	if cfg.Lifetime == 0 {
		cfg.Lifetime = DefaultLifetime
	}
	if cfg.Lifetime < MinLifetime {
		return nil, fmt.Errorf("ca: certificate lifetime %v is below %v", cfg.Lifetime, MinLifetime)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &CA{cfg: cfg, log: cfg.Logger, db: &db.DB{DB: records{cfg.DB}}}, nil
}

func (c *CA) open() (err error) {
	if c.keys, err = loadKeys(c.cfg.Dir, &c.kms); err != nil {
		return err
	}
	if len(c.keys.intermediate.PermittedURIDomains) != 1 {
		return fmt.Errorf("ca: %s is not constrained to one trust domain", intermediateCertFile)
	}
	if c.td, err = spiffeid.TrustDomainFromString(c.keys.intermediate.PermittedURIDomains[0]); err != nil {
		return fmt.Errorf("ca: %s: %w", intermediateCertFile, err)
	}
	return c.Use(nil)
}

func (c *CA) newAuthority(t *trust) (*authority.Authority, error) {
	jwk := &jose.JSONWebKey{Key: c.keys.provisioner.Public(), Algorithm: jose.ES256, Use: "sig", KeyID: c.kid()}
	lifetime := provisioner.Duration{Duration: c.cfg.Lifetime}
	return authority.NewEmbedded(
		authority.WithX509RootCerts(t.roots()...),
		authority.WithX509Signer(t.active.intermediate, t.active.signer),
		authority.WithX509Enforcers(enforcer{c.td}),
		authority.WithDatabase(c.db),
		authority.WithQuietInit(),
		authority.WithConfig(&config.Config{
			DNSNames: []string{c.cfg.Host},
			AuthorityConfig: &config.AuthConfig{
				// Used tokens are in the database, so those from before a restart are good.
				DisableIssuedAtCheck: true,
				Backdate:             &provisioner.Duration{Duration: c.backdate()},
				Provisioners: provisioner.List{&provisioner.JWK{
					Type: "JWK",
					Name: provisionerName,
					Key:  jwk,
					Claims: &provisioner.Claims{
						MinTLSDur:               &provisioner.Duration{Duration: MinLifetime},
						DefaultTLSDur:           &lifetime,
						MaxTLSDur:               &lifetime,
						DisableRenewal:          new(false),
						AllowRenewalAfterExpiry: new(false),
						EnableSSHCA:             new(false),
					},
				}},
			},
		}),
	)
}

func (c *CA) backdate() time.Duration {
	return min(max(c.cfg.Lifetime/10, minBackdate), maxBackdate)
}

// kid names the provisioner's key by its SHA-256.
func (c *CA) kid() string {
	der, err := x509.MarshalPKIXPublicKey(c.keys.provisioner.Public())
	if err != nil {
		panic("ca: a P-256 key did not marshal: " + err.Error())
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// TrustDomain is the one that this CA issues for.
func (c *CA) TrustDomain() spiffeid.TrustDomain { return c.td }

// URL is where a CA of this configuration answers on hostport.
func URL(hostport string) string {
	u := url.URL{Scheme: "https", Host: hostport}
	return u.String()
}

// Close ends the authority. The HTTP server must have stopped.
func (c *CA) Close() (err error) {
	c.closed.Do(func() {
		if c.external != nil {
			c.external.close()
			return
		}
		err = c.trust.Load().auth.Shutdown()
		c.kms.close()
	})
	return err
}
