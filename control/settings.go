package control

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/intramesh/mesh/control/ca"
	"github.com/intramesh/mesh/control/enrol"
	"github.com/intramesh/mesh/control/store"
	"github.com/intramesh/mesh/internal/atomicfile"
	"github.com/intramesh/mesh/internal/pace"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.yaml.in/yaml/v4"
)

// Settings is what mesh.yaml in the control plane's directory holds. The zero value of every
// field but TrustDomain means its default.
type Settings struct {
	// TrustDomain is the mesh's SPIFFE trust domain, "example.test". It can't change later.
	TrustDomain string `yaml:"trust_domain"`
	// Advertise is the host name or IP address under which members reach the control
	// plane; the default is 127.0.0.1.
	Advertise string `yaml:"advertise"`
	// Listen says where to listen.
	Listen Listen `yaml:"listen"`
	// CertificateLifetime is how long a member's certificate is valid, from a minute up; the
	// default is 24 h.
	CertificateLifetime time.Duration `yaml:"certificate_lifetime"`
	// AuditLifetime is how long entries of the audit log are kept; the default is a year.
	AuditLifetime time.Duration `yaml:"audit_lifetime"`
	// Store is where rules, tokens and the records of the certificate authority are: "" for a file in the
	// directory, or the URL of an etcd cluster ([store.ParseEtcdURL]), which several control planes can share.
	Store string `yaml:"store"`
	// CA says which step-ca signs; the zero value is the embedded one. Its files are relative to where the
	// control plane runs. It can't change later, except for another address of the same CA.
	CA ca.External `yaml:"ca"`
	// TokenLifetime is how long a join token is valid unless "mesh token" says
	// otherwise, at most a week; the default is 1 h.
	TokenLifetime time.Duration `yaml:"token_lifetime"`
	// ObserveBeyond is how many members the gossip pool has before processes that only dial observe it instead of being members, see
	// gossip.Participation; the default is 1,000. A negative one makes no observers.
	ObserveBeyond int `yaml:"observe_beyond"`
	// ProbeInterval is the time between a gossip member's probes of others, from 100 ms to a minute; the default is 300 ms. It has to be longer than a
	// packet takes to the most remote member and back.
	ProbeInterval time.Duration `yaml:"probe_interval"`
	// Enrol says who enrols without a token. Files that it names are relative to where the
	// control plane runs.
	Enrol enrol.Settings `yaml:"enrol"`
}

// Listen holds addresses to listen on: "127.0.0.1:7440", or ":7440" for all addresses. Port 0
// takes a free one, which is written to run.json and taken again at the next start if it
// is still free.
type Listen struct {
	// CA is the certificate authority's HTTPS. The default is 127.0.0.1:7440, or :7440
	// when Advertise is not a loopback address (and so on for the others).
	CA string `yaml:"ca"`
	// Mesh takes members' connections; the default port is 7441.
	Mesh string `yaml:"mesh"`
	// Gossip is used for UDP and TCP; the default port is 7442.
	Gossip string `yaml:"gossip"`
	// Admin takes operators who call from elsewhere, with a client certificate: "127.0.0.1:7443". "" is nowhere:
	// then there is the unix socket alone.
	Admin string `yaml:"admin"`
}

// settingsFile is written last: a directory without it is not a control plane's.
const settingsFile = "mesh.yaml"

func (s Settings) withDefaults() Settings {
	set := func(v *string, to string) {
		if *v == "" {
			*v = to
		}
	}
	set(&s.Advertise, "127.0.0.1")
	host := ""
	if ip, err := netip.ParseAddr(s.Advertise); s.Advertise == "localhost" || err == nil && ip.IsLoopback() {
		host = s.Advertise
	}
	set(&s.Listen.CA, net.JoinHostPort(host, "7440"))
	set(&s.Listen.Mesh, net.JoinHostPort(host, "7441"))
	set(&s.Listen.Gossip, net.JoinHostPort(host, "7442"))
	if s.CertificateLifetime == 0 {
		s.CertificateLifetime = ca.DefaultLifetime
	}
	if s.TokenLifetime == 0 {
		s.TokenLifetime = time.Hour
	}
	if s.ObserveBeyond == 0 {
		s.ObserveBeyond = 1000
	}
	if s.ProbeInterval == 0 {
		s.ProbeInterval = pace.ProbeInterval
	}
	if s.AuditLifetime == 0 {
		s.AuditLifetime = 365 * 24 * time.Hour
	}
	return s
}

func (s Settings) check() error {
	if s.TrustDomain == "" {
		return errors.New("trust_domain is missing")
	}
	if td, err := spiffeid.TrustDomainFromString(s.TrustDomain); err != nil {
		return fmt.Errorf("trust_domain: %w", err)
	} else if td.Name() != s.TrustDomain {
		return fmt.Errorf("trust_domain: write %q instead of %q", td.Name(), s.TrustDomain)
	} else if strings.Contains("."+s.TrustDomain+".", "..") { // a valid one that no certificate can be constrained to
		return fmt.Errorf("trust_domain: %q has an empty part between dots", s.TrustDomain)
	}
	if strings.ContainsAny(s.Advertise, "/@ []") {
		return fmt.Errorf("advertise: %q is not a host name or an IP address", s.Advertise)
	}
	for name, addr := range map[string]string{"ca": s.Listen.CA, "mesh": s.Listen.Mesh, "gossip": s.Listen.Gossip, "admin": s.Listen.Admin} {
		if name == "admin" && addr == "" {
			continue
		}
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return fmt.Errorf("listen.%s: %q is not of the form host:port", name, addr)
		}
		if _, err := netip.ParseAddr(host); host != "" && host != "localhost" && err != nil {
			return fmt.Errorf("listen.%s: %q is not an IP address", name, host)
		}
	}
	if s.Store != "" {
		if _, err := store.ParseEtcdURL(s.Store); err != nil {
			return fmt.Errorf("store: %w", err)
		}
	}
	if s.CA != (ca.External{}) {
		if err := s.CA.Check(); err != nil {
			return fmt.Errorf("ca: %w", err)
		}
	}
	if s.CertificateLifetime < ca.MinLifetime {
		return fmt.Errorf("certificate_lifetime: %v is below %v", s.CertificateLifetime, ca.MinLifetime)
	}
	if s.TokenLifetime <= 0 || s.TokenLifetime > ca.MaxTokenLifetime {
		return fmt.Errorf("token_lifetime: %v is not between 0 and %v", s.TokenLifetime, ca.MaxTokenLifetime)
	}
	if s.ProbeInterval < pace.MinProbeInterval || s.ProbeInterval > pace.MaxProbeInterval {
		return fmt.Errorf("probe_interval: %v is not between %v and %v", s.ProbeInterval, pace.MinProbeInterval, pace.MaxProbeInterval)
	}
	if s.AuditLifetime < 0 {
		return fmt.Errorf("audit_lifetime: %v is negative", s.AuditLifetime)
	}
	return nil
}

// file is mesh.yaml, for people to edit.
func (s Settings) file() ([]byte, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "# Settings of the control plane of mesh %s. \"mesh serve\" reads them when it starts.\n", s.TrustDomain)
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	lines := [][3]string{
		{"trust_domain: ", s.TrustDomain, "can't change: it is in every certificate"},
		{"advertise: ", strconv.Quote(s.Advertise), "host name or IP address under which members reach this machine"},
		{"listen:", "", "port 0 takes a free one and keeps it"},
		{"  ca: ", strconv.Quote(s.Listen.CA), "certificate authority, HTTPS"},
		{"  mesh: ", strconv.Quote(s.Listen.Mesh), "members' connections, mTLS"},
		{"  gossip: ", strconv.Quote(s.Listen.Gossip), "UDP and TCP"},
		{"  admin: ", strconv.Quote(s.Listen.Admin), "operators from elsewhere, mTLS: \":7443\"; empty for none"},
		{"store: ", strconv.Quote(s.Store), "empty for a file here, or etcd://HOST:PORT,HOST:PORT/PREFIX?ca=FILE&cert=FILE&key=FILE"},
		{"certificate_lifetime: ", short(s.CertificateLifetime), "members renew at two thirds of it"},
		{"audit_lifetime: ", short(s.AuditLifetime), "of an entry of the audit log"},
		{"token_lifetime: ", short(s.TokenLifetime), "of a token that is not used"},
		{"observe_beyond: ", strconv.Itoa(s.ObserveBeyond), "members of the gossip pool, before who only dials observes it; -1 for never"},
		{"probe_interval: ", short(s.ProbeInterval), "of gossip members; longer than any two members' round trip"},
	}
	if s.CA != (ca.External{}) {
		lines = append(lines,
			[3]string{"ca:", "", "an external step-ca: docs/identity.md"},
			[3]string{"  url: ", strconv.Quote(s.CA.URL), "only the control plane needs to reach it"},
			[3]string{"  root_file: ", strconv.Quote(s.CA.RootFile), "its root certificate, PEM"},
			[3]string{"  provisioner: ", strconv.Quote(s.CA.Provisioner), "of type JWK"},
			[3]string{"  key_file: ", strconv.Quote(s.CA.KeyFile), "its private key, mode 0600"},
			[3]string{"  password_file: ", strconv.Quote(s.CA.PasswordFile), "of the key, if it is encrypted"})
	}
	for _, line := range lines {
		_, _ = fmt.Fprintf(w, "%s%s\t# %s\n", line[0], line[1], line[2]) // into memory
	}
	_ = w.Flush() // into memory
	if len(s.Enrol.Kubernetes)+len(s.Enrol.X509) > 0 {
		part, err := yaml.Dump(map[string]enrol.Settings{"enrol": s.Enrol})
		if err != nil {
			return nil, err
		}
		b.Write(part)
	}
	return []byte(b.String()), nil
}

// write puts mesh.yaml into dir.
func (s Settings) write(dir string) error {
	content, err := s.file()
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, settingsFile), content, 0o600)
}

// short prints 24h0m0s as 24h.
func short(d time.Duration) string {
	s := d.String()
	if t, ok := strings.CutSuffix(s, "m0s"); ok {
		s = t + "m"
	}
	if t, ok := strings.CutSuffix(s, "h0m"); ok {
		s = t + "h"
	}
	return s
}

// loadSettings reads mesh.yaml. An unknown field is an error: a misspelt one would silently
// mean its default.
func loadSettings(dir string) (Settings, error) {
	path := filepath.Join(dir, settingsFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return Settings{}, fmt.Errorf("%s is not a control plane's directory: run mesh init %s first", dir, dir)
	}
	if err != nil {
		return Settings{}, err
	}
	var s Settings
	if err := yaml.Load(data, &s, yaml.WithKnownFields()); err != nil {
		return s, settingsError(path, err)
	}
	s = s.withDefaults()
	if err := s.check(); err != nil {
		return s, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

func settingsError(path string, err error) error {
	list, ok := errors.AsType[*yaml.LoadErrors](err)
	if !ok {
		list = &yaml.LoadErrors{}
		if one, ok := errors.AsType[*yaml.LoadError](err); ok {
			list.Errors = append(list.Errors, one)
		}
	}
	var all []error
	for _, e := range list.Errors {
		all = append(all, fmt.Errorf("%s:%d:%d: %s", path, e.Mark.Line, e.Mark.Column, e.Message))
	}
	if all == nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return errors.Join(all...)
}
