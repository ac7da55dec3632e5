package enrol

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/intramesh/mesh/control/store"
	"github.com/intramesh/mesh/internal/wire"
)

const (
	// MaxTokenLifetime bounds how long a join token can lie around.
	MaxTokenLifetime = 366 * 24 * time.Hour

	maxServices = 32
	maxFrom     = 32
	maxUses     = 1_000_000
	// keptUses is how many of its last uses a token remembers.
	keptUses = 32
)

// A Spec says what a join token allows.
type Spec struct {
	// Services are names, or patterns as in rules: "web-*", "billing/*", "*".
	Services []string `json:"services"`
	// Lifetime is in nanoseconds.
	Lifetime time.Duration `json:"lifetime,omitempty"`
	// Uses is how many processes it enrols; 0 is any number.
	Uses int `json:"uses"`
	// From are the networks that it can be used from; none means all.
	From []netip.Prefix `json:"from,omitempty"`
}

// A Token is a join token without its secret, of which only a hash is kept.
type Token struct {
	ID       string         `json:"id"`
	Services []string       `json:"services"`
	Uses     int            `json:"uses"` // 0 is any number
	Used     int            `json:"used"`
	From     []netip.Prefix `json:"from,omitempty"`
	Created  time.Time      `json:"created"`
	By       store.Actor    `json:"by"`
	Expires  time.Time      `json:"expires"`
	// Revoked is when it was, zero when it was not.
	Revoked time.Time `json:"revoked,omitzero"`
	// Last are the last uses, the oldest first.
	Last []Use `json:"last,omitempty"`
}

// A Use is one process that a token enrolled.
type Use struct {
	At      time.Time  `json:"at"`
	Service string     `json:"service"`
	From    netip.Addr `json:"from"`
	// CSR is the SHA-256 of its certificate request: asking again for that one is no other use.
	CSR string `json:"csr"`
}

// State is "usable", or why it is not: "revoked", "expired", "used up".
func (t Token) State(now time.Time) string {
	switch {
	case !t.Revoked.IsZero():
		return "revoked"
	case !now.Before(t.Expires):
		return "expired"
	case t.Uses > 0 && t.Used >= t.Uses:
		return "used up"
	}
	return "usable"
}

// tokenRecord is what is stored.
type tokenRecord struct {
	Token
	Hash [sha256.Size]byte `json:"hash"` // of the secret, which has 130 random bits
}

// Create makes a join token. Its value is not stored, and can't be had again.
func (g *Gate) Create(ctx context.Context, s Spec) (value string, t Token, err error) {
	if err := s.Check(); err != nil {
		return "", t, fmt.Errorf("enrol: %w", err)
	}
	now := time.Now().UTC()
	secret := rand.Text()
	t = Token{
		ID: strings.ToLower(rand.Text()[:10]), Services: s.Services, Uses: s.Uses, From: s.From,
		Created: now, By: store.ActorFrom(ctx), Expires: now.Add(s.Lifetime),
	}
	op, err := g.tokens.Op(t.ID, tokenRecord{t, sha256.Sum256([]byte(secret))}, store.Absent)
	if err != nil {
		return "", t, err
	}
	_, err = g.cfg.DB.Commit(ctx, op, store.Audit(ctx, "token created", t.ID, s.String()))
	return wire.JoinTokenPrefix + t.ID + "." + secret, t, err
}

// Check says what is wrong with a spec.
func (s Spec) Check() error {
	switch {
	case len(s.Services) == 0 || len(s.Services) > maxServices:
		return fmt.Errorf("a token for %d services, want 1 to %d", len(s.Services), maxServices)
	case s.Lifetime <= 0 || s.Lifetime > MaxTokenLifetime:
		return fmt.Errorf("token lifetime %v is not between 0 and %v", s.Lifetime, MaxTokenLifetime)
	case s.Uses < 0 || s.Uses > maxUses:
		return fmt.Errorf("%d uses, want 1 to %d, or 0 for any number", s.Uses, maxUses)
	case len(s.From) > maxFrom:
		return fmt.Errorf("%d networks, at most %d work", len(s.From), maxFrom)
	}
	for _, p := range s.Services {
		if err := checkPattern(p); err != nil {
			return err
		}
	}
	for _, p := range s.From {
		if !p.IsValid() || p != p.Masked() {
			return fmt.Errorf("network %s: write %s", p, p.Masked())
		}
	}
	return nil
}

// String is for the audit log.
func (s Spec) String() string {
	uses := "any number of uses"
	switch {
	case s.Uses == 1:
		uses = "one use"
	case s.Uses > 1:
		uses = fmt.Sprintf("%d uses", s.Uses)
	}
	text := fmt.Sprintf("for %s, %s, valid for %s", strings.Join(s.Services, ", "), uses, s.Lifetime)
	if len(s.From) > 0 {
		text += fmt.Sprintf(", from %v", s.From)
	}
	return text
}

// Tokens returns all tokens that are stored, in the order of their making.
func (g *Gate) Tokens(ctx context.Context) ([]Token, error) {
	all := []Token{}
	for e, err := range g.tokens.All(ctx) {
		if err != nil {
			return nil, err
		}
		all = append(all, e.Value.Token)
	}
	slices.SortStableFunc(all, func(a, b Token) int { return a.Created.Compare(b.Created) })
	return all, nil
}

// Revoke makes a token useless; who is in stays in. [store.ErrNotFound] is in the error when there is none.
func (g *Gate) Revoke(ctx context.Context, id string) (Token, error) {
	var t Token
	err := g.tokens.Update(ctx, id, func(r *tokenRecord, found bool) ([]store.Op, error) {
		if !found {
			return nil, fmt.Errorf("enrol: token %q: %w", id, store.ErrNotFound)
		}
		if r.Revoked.IsZero() {
			r.Revoked = time.Now().UTC().Truncate(time.Second)
		}
		t = r.Token
		return []store.Op{store.Audit(ctx, "token revoked", id, "")}, nil
	})
	return t, err
}

var errUnknownToken = refuse("the token is not known: it was made by another control plane, or was removed after it expired; get a new one")

// redeem uses a token once more. The use is stored before anybody hears of it.
func (g *Gate) redeem(ctx context.Context, a ask) (who string, err error) {
	rest, ok := strings.CutPrefix(a.proof, wire.JoinTokenPrefix)
	id, secret, whole := strings.Cut(rest, ".")
	if !ok || !whole || id == "" || len(id) > store.MaxKey {
		return "", &refusal{http.StatusUnauthorized, "the token is not one of \"mesh token\" (was it cut off when it was copied?)"}
	}
	hash := sha256.Sum256([]byte(secret))
	ctx = store.WithActor(ctx, store.Actor{Name: "token " + id, From: a.from.String()})
	g.redeeming.Lock()
	defer g.redeeming.Unlock()
	err = g.tokens.Update(ctx, id, func(r *tokenRecord, found bool) ([]store.Op, error) {
		if !found || subtle.ConstantTimeCompare(hash[:], r.Hash[:]) != 1 {
			return nil, errUnknownToken
		}
		return r.use(ctx, a, time.Now().UTC())
	})
	if errors.Is(err, errAgain) {
		err = nil
	}
	return id, err
}

// errAgain ends an update without a change: the use is counted already.
var errAgain = errors.New("the same request again")

// use counts a use, or says why it can't be had.
func (t *Token) use(ctx context.Context, a ask, now time.Time) ([]store.Op, error) {
	inside := func(p netip.Prefix) bool { return p.Contains(a.from) }
	switch {
	case !t.Revoked.IsZero():
		return nil, refuse("the token was revoked at %s: get a new one", t.Revoked.Format(time.RFC3339))
	case !now.Before(t.Expires):
		return nil, refuse("the token expired at %s: get a new one", t.Expires.Format(time.RFC3339))
	case !matchAny(t.Services, a.service):
		return nil, refuse("the token is for %s, not for %s", strings.Join(t.Services, ", "), a.service)
	case len(t.From) > 0 && !slices.ContainsFunc(t.From, inside):
		return nil, refuse("the token can't be used from %s", a.from)
	case slices.ContainsFunc(t.Last, func(u Use) bool { return u.CSR == a.csr && u.Service == a.service }):
		return nil, errAgain
	case t.Uses == 1 && t.Used >= 1:
		return nil, refuse("the token was used already: get a new one, and keep a state directory so that restarts need none")
	case t.Uses > 0 && t.Used >= t.Uses:
		return nil, refuse("the token was used %d times already, as often as it can be: get a new one, and keep a state directory so that restarts need none", t.Used)
	}
	t.Used++
	t.Last = append(t.Last, Use{now.Truncate(time.Second), a.service, a.from, a.csr})
	t.Last = slices.Clone(t.Last[max(0, len(t.Last)-keptUses):])
	return []store.Op{store.Audit(ctx, "token used", a.service, fmt.Sprintf("use %d of token %s", t.Used, t.ID))}, nil
}

// keepDead is how long tokens are listed that can't be used any more.
const keepDead = 30 * 24 * time.Hour

// Sweep forgets tokens that expired more than 30 days ago.
func (g *Gate) Sweep(ctx context.Context) error {
	before := time.Now().Add(-keepDead)
	_, err := store.Prune(ctx, g.cfg.DB, store.KindTokens, func(r store.Record) bool {
		var t Token
		return json.Unmarshal(r.Value, &t) == nil && t.Expires.Before(before)
	})
	return err
}
