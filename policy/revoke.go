package policy

import (
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// A Revocation takes trust away from certificates that have not expired: from one, by its Serial, or from the older ones
// of an ID. Exactly one of the two is set. Members refuse the certificate in either direction and end its open connections.
type Revocation struct {
	// Serial is a certificate's serial number in lower-case hex without leading zeros, as x509.Certificate.SerialNumber.Text(16)
	// has it. That of an intermediate revokes all that it issued.
	Serial string `json:"serial,omitempty"`
	// Authority narrows Serial to one issuer: the certificate's authority key identifier in lower-case hex
	// (x509.Certificate.AuthorityKeyId). Empty means any.
	Authority string `json:"authority,omitempty"`
	// ID is a SPIFFE ID of which every certificate is revoked whose NotBefore is not after IssuedBefore: newer ones are
	// good. An authority that backdates by a minute makes newer ones a minute later.
	ID           string    `json:"id,omitempty"`
	IssuedBefore time.Time `json:"issuedBefore,omitzero"`
	// Expires is when the last certificate that this is about has expired (its NotAfter). Whoever signs bundles leaves the
	// revocation out from then on; members heed it as long as it is there.
	Expires time.Time `json:"expires"`
	// Reason is for people; it may be empty.
	Reason string `json:"reason,omitempty"`
}

// parsedRevocation is a Revocation on the way in.
type parsedRevocation struct {
	Serial       string `json:"serial"`
	Authority    string `json:"authority"`
	ID           string `json:"id"`
	IssuedBefore string `json:"issuedBefore"`
	Expires      string `json:"expires"`
	Reason       string `json:"reason"`
}

const (
	maxSerial     = 2 * 20 // hex digits; RFC 5280, section 4.1.2.2
	maxAuthority  = 2 * 64
	maxIDBytes    = 2048 // SPIFFE-ID specification, section 2.3
	maxRevokedFor = 256  // bytes of a reason
)

// A RevokedError says that a certificate which is otherwise valid has been revoked.
type RevokedError struct {
	// ID is whose certificate it is, Serial its serial number in hex.
	ID     spiffeid.ID
	Serial string
	// Version is that of the rules that revoke it.
	Version uint64
	// Reason is the revocation's; it may be empty.
	Reason string
}

// Error names the certificate, the rules' version and the reason.
func (e *RevokedError) Error() string {
	s := "certificate " + e.Serial + " of " + e.ID.String() + " is revoked (rules v" + strconv.FormatUint(e.Version, 10) + ")"
	if e.Reason != "" {
		s += ": " + e.Reason
	}
	return s
}

// revocations is a list of them, for finding.
type revocations struct {
	list     []Revocation
	bySerial map[string][]*Revocation
	byID     map[spiffeid.ID]*Revocation // the latest of each
}

// compileRevocations checks a list and makes it fit for finding; report gets what is wrong.
func compileRevocations(list []Revocation, report func(*path, string)) *revocations {
	at := &path{field: "revoked"}
	if len(list) > MaxRevocations {
		report(at, fmt.Sprintf("has %d elements; at most %d are accepted", len(list), MaxRevocations))
		return nil
	}
	rs := &revocations{list: slices.Clone(list), bySerial: make(map[string][]*Revocation), byID: make(map[spiffeid.ID]*Revocation)}
	for i := range rs.list {
		r := &rs.list[i]
		id := r.check(func(field, msg string) { report((&path{up: at, index: i}).at(field), msg) })
		if r.ID == "" {
			rs.bySerial[r.Serial] = append(rs.bySerial[r.Serial], r)
		} else if old := rs.byID[id]; old == nil || old.IssuedBefore.Before(r.IssuedBefore) {
			rs.byID[id] = r
		}
	}
	return rs
}

// check reports what is wrong, and returns the ID as it is compared.
func (r *Revocation) check(fail func(field, msg string)) (id spiffeid.ID) {
	switch {
	case (r.Serial == "") == (r.ID == ""):
		fail("serial", "a revocation has either a serial or an id")
	case r.ID != "":
		var err error
		if id, err = spiffeid.FromString(r.ID); err != nil || id.Path() == "" || len(r.ID) > maxIDBytes {
			fail("id", fmt.Sprintf("%q is not the SPIFFE ID of a service", clip(r.ID, maxText/2)))
		}
		if r.IssuedBefore.IsZero() {
			fail("issuedBefore", "is missing; it says which certificates of the id are meant")
		}
		if r.Authority != "" {
			fail("authority", "goes with a serial alone")
		}
	default:
		if !lowerHex(r.Serial, maxSerial) || len(r.Serial) > 1 && r.Serial[0] == '0' {
			fail("serial", fmt.Sprintf("%q is not a serial number in lower-case hex without leading zeros", clip(r.Serial, maxText/2)))
		}
		if r.Authority != "" && (len(r.Authority)%2 != 0 || !lowerHex(r.Authority, maxAuthority)) {
			fail("authority", fmt.Sprintf("%q is not a key identifier in lower-case hex", clip(r.Authority, maxText/2)))
		}
		if !r.IssuedBefore.IsZero() {
			fail("issuedBefore", "goes with an id alone")
		}
	}
	if r.Expires.IsZero() {
		fail("expires", "is missing")
	}
	if len(r.Reason) > maxRevokedFor {
		fail("reason", fmt.Sprintf("is longer than %d bytes", maxRevokedFor))
	}
	return id
}

func lowerHex(s string, limit int) bool {
	return s != "" && len(s) <= limit && strings.Trim(s, "0123456789abcdef") == ""
}

// find returns what revokes a verified chain, and which certificate of it; nil when nothing does.
func (rs *revocations) find(id spiffeid.ID, chain []*x509.Certificate) (*Revocation, *x509.Certificate) {
	if rs == nil || len(rs.list) == 0 || len(chain) == 0 {
		return nil, nil
	}
	if r := rs.byID[id]; r != nil && !chain[0].NotBefore.After(r.IssuedBefore) {
		return r, chain[0]
	}
	if len(rs.bySerial) == 0 {
		return nil, nil
	}
	for _, c := range chain {
		if c.SerialNumber == nil {
			continue
		}
		for _, r := range rs.bySerial[c.SerialNumber.Text(16)] {
			if r.Authority == "" || r.Authority == hex.EncodeToString(c.AuthorityKeyId) {
				return r, c
			}
		}
	}
	return nil, nil
}

// Revoked returns a [*RevokedError] when the rules revoke a certificate of a chain, which has been verified to be that of id.
// A nil Engine revokes nothing.
func (e *Engine) Revoked(id spiffeid.ID, chain []*x509.Certificate) error {
	if e == nil {
		return nil
	}
	if r, c := e.revoked.find(id, chain); r != nil {
		return &RevokedError{ID: id, Serial: c.SerialNumber.Text(16), Version: e.version, Reason: r.Reason}
	}
	return nil
}

// SameRevocations reports whether both engines revoke the same: then no certificate needs to be looked at again when
// one replaces the other.
func (e *Engine) SameRevocations(other *Engine) bool {
	return slices.Equal(e.revocationList(), other.revocationList())
}

func (e *Engine) revocationList() []Revocation {
	if e == nil || e.revoked == nil {
		return nil
	}
	return e.revoked.list
}

// decodeRevocations reads the list of a bundle; what its values mean [Compile] checks.
func decodeRevocations(d *decoder, nodes []*Node) []Revocation {
	at := &path{field: "revoked"}
	if len(nodes) > MaxRevocations {
		d.fail(0, 0, at, "has %d elements; at most %d are accepted", len(nodes), MaxRevocations)
		return nil
	}
	var list []Revocation
	for i, n := range nodes {
		at := &path{up: at, index: i}
		var p parsedRevocation
		d.decode(n, reflect.ValueOf(&p).Elem(), at)
		list = append(list, Revocation{
			Serial: p.Serial, Authority: p.Authority, ID: p.ID, Reason: p.Reason,
			IssuedBefore: d.time(p.IssuedBefore, at.at("issuedBefore")), Expires: d.time(p.Expires, at.at("expires")),
		})
	}
	return list
}

// time reads an RFC 3339 time; empty is the zero one.
func (d *decoder) time(s string, at *path) (t time.Time) {
	if s == "" {
		return t
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		d.fail(0, 0, at, "%q is not a time as in RFC 3339", clip(s, maxText/2))
	}
	return t
}
