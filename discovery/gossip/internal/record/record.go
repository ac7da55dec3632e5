// Package record is the small record that each member gossips about itself.
//
// On the wire it is a version byte and fields; a field is a tag byte, the length of the value
// as an unsigned varint, and the value. Unknown fields, and what follows the known parts of an
// endpoint, are skipped, so that members of different age understand each other. A signature is the last
// field, and covers all before it; see [Sign].
package record

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/intramesh/mesh/discovery"
)

// MaxSize bounds an encoded record, in bytes. It is what memberlist carries.
const MaxSize = 512

const version = 1

// Tags of fields.
const (
	tagZone       = 1
	tagGeneration = 2
	tagEndpoint   = 3
	tagBundle     = 4
	tagCert       = 5
	tagSignature  = 6
	tagLeft       = 7
)

// Flags of an endpoint; the two lowest bits hold the state.
const (
	stateMask = 0b11
	hasWeight = 1 << 2
	hasIPv4   = 1 << 3
	hasIPv6   = 1 << 4
	hasZone   = 1 << 5
	hasAlso   = 1 << 6
)

// Longest names, in bytes.
const (
	maxService = 253
	maxName    = 63
)

// A CertHash names a certificate: the first half of the SHA-256 of its DER form.
type CertHash [16]byte

// HashOf returns the hash of a certificate in DER form.
func HashOf(der []byte) CertHash {
	sum := sha256.Sum256(der)
	return CertHash(sum[:])
}

// A Record is what a member announces.
type Record struct {
	// Zone is the locality of all endpoints that have none of their own.
	Zone string
	// Generation grows with each change that the member makes.
	Generation uint64
	// Bundle is the version of the rules in force; 0 is none.
	Bundle uint64
	// Left says that the member is gone for good.
	Left bool
	// Cert is the certificate whose key signs the record; zero in a pool without identities.
	Cert CertHash
	// Endpoints are complete, Instance and Addr included.
	Endpoints []discovery.Endpoint
}

// Check returns an error when the endpoint can't be announced.
func Check(ep discovery.Endpoint) error {
	switch {
	case ep.Service == "":
		return errors.New("endpoint has no service")
	case len(ep.Service) > maxService || !printable(ep.Service):
		return fmt.Errorf("service %.80q: want at most %d printable characters", ep.Service, maxService)
	case len(ep.Port) > maxName || !printable(ep.Port):
		return fmt.Errorf("port %.80q: want at most %d printable characters", ep.Port, maxName)
	case len(ep.Zone) > maxName || !printable(ep.Zone):
		return fmt.Errorf("zone %.80q: want at most %d printable characters", ep.Zone, maxName)
	case !ep.Addr.IsValid() || ep.Addr.Port() == 0:
		return fmt.Errorf("%s: no address to connect to", ep.Service)
	case slices.ContainsFunc(ep.Also.All(), netip.Addr.IsUnspecified):
		return fmt.Errorf("%s: others can't connect to %v", ep.Service, ep.Also)
	case ep.State > discovery.Draining:
		return fmt.Errorf("%s: invalid state %d", ep.Service, ep.State)
	}
	return nil
}

// printable is about what ends up in terminals and logs.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// Encode returns the record as member, the IP that others know the member by, announces it. The
// result may exceed MaxSize, which the caller must not send.
func (r Record) Encode(member netip.Addr) []byte {
	b := []byte{version}
	if r.Zone != "" {
		b = appendField(b, tagZone, []byte(r.Zone))
	}
	b = appendField(b, tagGeneration, binary.AppendUvarint(nil, r.Generation))
	if r.Bundle != 0 {
		b = appendField(b, tagBundle, binary.AppendUvarint(nil, r.Bundle))
	}
	if r.Left {
		b = appendField(b, tagLeft, nil)
	}
	if r.Cert != (CertHash{}) {
		b = appendField(b, tagCert, r.Cert[:])
	}
	var before discovery.AddrList
	for _, ep := range r.Endpoints {
		b = appendField(b, tagEndpoint, r.endpoint(ep, member, before))
		before = ep.Also
	}
	return b
}

// endpoint encodes ep, which comes after one that has the addresses before in Also. No addresses stand for the same.
func (r Record) endpoint(ep discovery.Endpoint, member netip.Addr, before discovery.AddrList) []byte {
	flags, addr := byte(ep.State), ep.Addr.Addr().Unmap()
	var rest []byte
	if ep.Weight != 0 {
		flags |= hasWeight
		rest = binary.AppendUvarint(rest, uint64(ep.Weight))
	}
	if addr != member.Unmap() {
		flags |= hasIPv4
		if addr.Is6() {
			flags ^= hasIPv4 | hasIPv6
		}
		rest = append(rest, addr.AsSlice()...)
	}
	if ep.Zone != r.Zone {
		flags |= hasZone
		rest = appendString(rest, ep.Zone)
	}
	if ep.Also != (discovery.AddrList{}) {
		flags |= hasAlso
		var addrs []byte
		if ep.Also != before {
			for _, a := range ep.Also.All() {
				addrs = appendString(addrs, string(a.AsSlice()))
			}
		}
		rest = appendString(rest, string(addrs))
	}
	b := binary.BigEndian.AppendUint16([]byte{flags}, ep.Addr.Port())
	b = appendString(b, ep.Service)
	b = appendString(b, ep.Port)
	return append(b, rest...)
}

// Inlining these two would add 3 KB to every program.
//
//go:noinline
func appendField(b []byte, tag byte, value []byte) []byte {
	b = binary.AppendUvarint(append(b, tag), uint64(len(value)))
	return append(b, value...)
}

//go:noinline
func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}
