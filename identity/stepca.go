package identity

import (
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/intramesh/mesh/internal/atomicfile"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// StepCAConfig says which CA to enrol with, and as whom. It is copied.
type StepCAConfig struct {
	// URL is the CA's, "https://ca.example:9000".
	URL string
	// Others are URLs of more servers of the same CA (replicas of the control plane). A server that does not
	// answer is left for the next one; the first is chosen at random.
	Others []string
	// RootFingerprint is the SHA-256 of the CA's root certificate in hex. It is what makes the
	// first contact safe.
	RootFingerprint string
	// Token enrols: a join token of "mesh token", or a one-time token of step-ca. It is sent to nobody but a
	// server that the fingerprinted root vouches for, and only when Dir holds no certificate that still
	// counts.
	Token string
	// Prove is asked instead of a Token by who enrols with something else, such as [KubernetesToken].
	Prove Prover
	// ID is the SPIFFE ID to ask for. A one-time token of step-ca says so itself; with anything else it is
	// required.
	ID spiffeid.ID
	// EnrolURL is where the control plane takes join tokens and proofs. "" is URL.
	EnrolURL string
	// Dir keeps the key, the certificate and the roots across restarts; it is made when it is
	// missing. "" keeps nothing: every start needs a new token.
	Dir string
	// Timeout bounds each request to the CA. 0 means 15 s.
	Timeout time.Duration
	// RefreshRoots is how often the CA's roots are fetched; they are fetched before each renewal
	// as well. 0 means 1 h.
	RefreshRoots time.Duration
	// DialContext connects to the CA. nil means the operating system's network.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
	// Logger is told of renewals, and with growing urgency of those that fail. nil discards.
	Logger *slog.Logger
}

const (
	defaultTimeout = 15 * time.Second
	defaultRefresh = time.Hour
	// patience is how long NewStepCA waits for a CA that can't be connected to.
	patience = 30 * time.Second
)

// StepCA is a Source that enrols with a step-ca (https://smallstep.com/docs/step-ca) by its
// HTTP API, and renews by itself: at two thirds of the certificate's life, give or take
// 5 %, each time with a new key. A renewal that fails is tried again, after expiry too
// (the clock may have been wrong, or the CA lenient), and then it enrols anew if it can: with a
// Prove, or a join token that has uses left. From expiry on GetX509SVID returns an *ExpiredError. It is safe for
// concurrent use.
//
// A new set of roots is accepted only over a connection that the present roots verify.
type StepCA struct {
	current
	cfg      StepCAConfig
	client   stepClient
	enroller stepClient // the control plane, when that is another server than the CA
	again    *enrolment // after expiry; nil when that can't work
	log      *slog.Logger

	followMu sync.Mutex
	follow   followed
	kick     chan struct{} // Follow was called

	due     schedule
	unsaved bool // what is in use is newer than what Dir holds; run's, like due

	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// NewStepCA starts from the state in Dir when there is a certificate that has not expired,
// without asking the CA, and otherwise enrols with the token. ctx bounds that much. A CA
// that can't be connected to is tried for 30 s; one that refuses is an error at once (a
// *CAError inside).
//
// It is an error when Dir holds the certificate of another SPIFFE ID than the one to ask for, so
// that no directory serves two services by mistake. State of a CA with another root is replaced
// when there is a token, and an error when there is none.
func NewStepCA(ctx context.Context, cfg StepCAConfig) (*StepCA, error) {
	s := &StepCA{cfg: cfg, log: cfg.Logger, kick: make(chan struct{}, 1)}
	s.help = "the CA has not renewed it; get a new token and restart"
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.cfg.Timeout == 0 {
		s.cfg.Timeout = defaultTimeout
	}
	if s.cfg.RefreshRoots == 0 {
		s.cfg.RefreshRoots = defaultRefresh
	}
	if err := s.start(ctx); err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	runCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	s.wg.Go(func() { s.run(runCtx) })
	return s, nil
}

// Close stops renewing: it aborts a request under way and waits for it. GetX509SVID goes on
// answering until the certificate expires. It returns nil, and may be called again.
func (s *StepCA) Close() error {
	s.cancel()
	s.wg.Wait()
	return nil
}

// start leaves s with a certificate, or returns an error.
func (s *StepCA) start(ctx context.Context) error {
	servers, err := s.servers(s.cfg.Others)
	if err != nil {
		return err
	}
	var at *url.URL
	if s.cfg.EnrolURL != "" {
		if at, err = parseURL(s.cfg.EnrolURL); err != nil {
			return fmt.Errorf("the control plane's URL %w", err)
		}
	}
	// (strings.ReplaceAll would be 8 KB of every program.)
	s.cfg.RootFingerprint = strings.ToLower(strings.Join(strings.Split(s.cfg.RootFingerprint, ":"), ""))
	if raw, err := hex.DecodeString(s.cfg.RootFingerprint); err != nil || len(raw) != 32 {
		return fmt.Errorf("the root's fingerprint %q is not a SHA-256 in hex", s.cfg.RootFingerprint)
	}
	if s.cfg.DialContext == nil {
		s.cfg.DialContext = new(net.Dialer).DialContext
	}
	s.client = newStepClient(servers, s.cfg)
	s.enroller = s.client
	if s.cfg.EnrolURL != "" {
		s.enroller = newStepClient([]*url.URL{at}, s.cfg)
	}
	e, err := s.enrolment()
	if err != nil {
		return err
	}
	if e != nil && e.prove != nil {
		s.again = e
	}
	if s.cfg.Dir != "" {
		if err := atomicfile.MkdirAll(s.cfg.Dir); err != nil {
			return err
		}
	}
	old, err := loadState(s.cfg.Dir)
	if err != nil {
		return err
	}
	if old == nil {
		if e == nil {
			return fmt.Errorf("there is no certificate%s and no token to get one: get a token", inDir(s.cfg.Dir))
		}
		return s.enrol(ctx, e)
	}
	return s.resume(ctx, old, e)
}

// servers are the CA's, each once.
func (s *StepCA) servers(others []string) ([]*url.URL, error) {
	var all []*url.URL
	for _, text := range append([]string{s.cfg.URL}, others...) {
		u, err := parseURL(text)
		if err != nil {
			return nil, fmt.Errorf("the CA's URL %w", err)
		}
		if !slices.ContainsFunc(all, func(v *url.URL) bool { return *v == *u }) {
			all = append(all, u)
		}
	}
	return all, nil
}

// SetOthers replaces StepCAConfig.Others, for calls from now on.
func (s *StepCA) SetOthers(urls []string) error {
	servers, err := s.servers(urls)
	if err != nil {
		return fmt.Errorf("identity: %w", err)
	}
	s.client.servers.Store(&servers)
	return nil
}

func parseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%q is not of the form https://host:port", text)
	}
	return u, nil
}

func inDir(dir string) string {
	if dir == "" {
		return ""
	}
	return " in " + dir
}

// resume goes on from what a former process stored, if that still counts.
func (s *StepCA) resume(ctx context.Context, old *state, e *enrolment) error {
	want := s.cfg.ID
	if e != nil {
		want = e.id
	}
	if !want.IsZero() && want != old.svid.ID {
		return fmt.Errorf("%s holds the certificate of %s, but the token is for %s: give each service a directory of its own",
			s.cfg.Dir, old.svid.ID, want)
	}
	why := s.outdated(old)
	if why == nil {
		s.set(old.svid, old.bundle)
		return nil
	}
	if e == nil {
		return fmt.Errorf("the certificate of %s in %s is of no use (%w): get a new token", old.svid.ID, s.cfg.Dir, why)
	}
	s.log.Warn("enrolling again", "id", old.svid.ID.String(), "dir", s.cfg.Dir, "reason", why)
	return s.enrol(ctx, e)
}

// outdated says why a stored certificate can't be used.
func (s *StepCA) outdated(old *state) error {
	known := old.anchor == s.cfg.RootFingerprint
	for _, root := range old.bundle.X509Authorities() {
		known = known || fingerprintOf(root) == s.cfg.RootFingerprint
	}
	if !known {
		return fmt.Errorf("it is of a CA with root %s, not %s", old.anchor, s.cfg.RootFingerprint)
	}
	if e := expiry(old.svid.Certificates); time.Now().After(e) {
		return fmt.Errorf("it expired at %s", e.Format(time.RFC3339))
	}
	return checkIssued(old.svid, old.bundle)
}
