package jwt

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/intramesh/mesh/policy"
)

// Config adjusts a [Verifier]. Its zero value is good.
type Config struct {
	// HTTPClient fetches keys; nil is one that trusts the system's authorities. Its transport is used as it is, and
	// redirects only go to https.
	HTTPClient *http.Client
	// Logger gets what happens to issuers' keys; nil drops it.
	Logger *slog.Logger
}

// A Verifier is a [policy.TokenVerifier]. It fetches the keys of an issuer when the first of its tokens comes, and again in
// the background when they are used and older than five minutes, or when a token names a key that is not among them
// (every ten seconds at most). While an issuer can't be reached, its last keys are used for a day.
//
// Tokens that held are remembered until they expire or the keys change, within bounds. It is safe for concurrent use
// and must be closed.
type Verifier struct {
	client http.Client
	own    bool // the client's idle connections are ours
	log    *slog.Logger

	ctx  context.Context // ends at Close
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	sources map[string]*source
	seen    cache
}

var _ policy.TokenVerifier = (*Verifier)(nil)

// New returns a Verifier. It does nothing before it is asked.
func New(cfg Config) *Verifier {
	v := &Verifier{log: cfg.Logger, sources: make(map[string]*source)}
	if v.log == nil {
		v.log = slog.New(slog.DiscardHandler)
	}
	if cfg.HTTPClient != nil {
		v.client = *cfg.HTTPClient
	} else {
		v.own = true
		v.client.Transport = &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, MaxIdleConns: 8, IdleConnTimeout: 90 * time.Second}
	}
	v.client.CheckRedirect = checkRedirect(v.client.CheckRedirect)
	v.client.Jar = nil
	v.ctx, v.stop = context.WithCancel(context.Background())
	return v
}

// Close ends what is being fetched. Afterwards no token holds whose issuer's keys are not here. It may be
// called twice.
func (v *Verifier) Close() error {
	v.stop()
	v.mu.Lock()
	v.closed = true
	v.mu.Unlock()
	v.wg.Wait()
	if v.own {
		v.client.CloseIdleConnections()
	}
	return nil
}

// MaxToken is the length from which on a token is refused unread.
const MaxToken = 16 << 10

// maxTries bounds the keys that are tried for a token that does not name one.
const maxTries = 8

// Verify implements [policy.TokenVerifier].
func (v *Verifier) Verify(token string, issuers []*policy.TokenIssuer) (*policy.Token, error) {
	if len(token) > MaxToken {
		return nil, fmt.Errorf("the token is larger than %d bytes", MaxToken)
	}
	now, sum := time.Now(), sha256.Sum256([]byte(token))
	if t := v.recall(sum, issuers, now); t != nil {
		return t, nil
	}
	h, err := parseHeader(token)
	if err != nil {
		return nil, err
	}
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(h.Alg)})
	if err != nil {
		return nil, errMalformed
	}
	// Who claims to have signed it tells whose keys to try.
	c, err := parseClaims(jws.UnsafePayloadWithoutVerification())
	if err != nil {
		return nil, err
	}
	issuer := c.issuerOf(issuers)
	if issuer == nil {
		return nil, errIssuer
	}
	if !slices.Contains(issuer.Algorithms, h.Alg) {
		return nil, fmt.Errorf("the token is signed with an algorithm that is not one of %s's", issuer.Issuer)
	}
	// A token that is stale anyway is no reason to fetch keys.
	until, err := c.check(issuer, now)
	if err != nil {
		return nil, err
	}
	keys, err := v.keysFor(issuer, now)
	if err != nil {
		return nil, err
	}
	candidates := keys.find(h.Kid, h.Alg)
	if len(candidates) == 0 {
		if err := v.refetch(issuer, now); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("the token is signed with a key that %s does not publish", issuer.Issuer)
	}
	if !slices.ContainsFunc(candidates[:min(len(candidates), maxTries)], func(k any) bool {
		_, err := jws.Verify(k)
		return err == nil
	}) {
		return nil, errSignature
	}
	t := &policy.Token{Claims: c.all, Until: until}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.seen.add(sum, entry{token: t, issuer: issuer.Digest, keys: keys, size: len(token)})
	return t, nil
}

var (
	errMalformed = errors.New("the token is not a signed JSON Web Token")
	errIssuer    = errors.New("the token's issuer is not one of the mesh's")
	errSignature = errors.New("the token's signature does not hold")
)

// recall returns a token that was verified before, if all that it rested on is as it was.
func (v *Verifier) recall(sum [sha256.Size]byte, issuers []*policy.TokenIssuer, now time.Time) *policy.Token {
	v.mu.Lock()
	e, ok := v.seen.get(sum)
	v.mu.Unlock()
	if !ok || !now.Before(e.token.Until) {
		return nil
	}
	i := slices.IndexFunc(issuers, func(t *policy.TokenIssuer) bool { return t.Digest == e.issuer })
	if i < 0 {
		return nil
	}
	if keys, err := v.keysFor(issuers[i], now); err != nil || keys != e.keys {
		return nil
	}
	return e.token
}
