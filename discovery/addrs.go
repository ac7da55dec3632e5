package discovery

import (
	"net/netip"
	"strings"
)

// MaxAlso is how many addresses an [AddrList] holds.
const MaxAlso = 3

// An AddrList is a few IP addresses as one comparable value. The zero value has none.
type AddrList struct{ list string } // 16 bytes of each, those of IPv4 mapped into IPv6

// AddrsOf returns the list of addrs, in this order; those after the first MaxAlso, invalid ones and IPv6 zones are left out.
func AddrsOf(addrs ...netip.Addr) AddrList {
	var b []byte
	for _, a := range addrs {
		if a.IsValid() && len(b) < 16*MaxAlso {
			ip := a.As16()
			b = append(b, ip[:]...)
		}
	}
	return AddrList{string(b)}
}

// All returns the addresses, in a slice of the caller's.
func (l AddrList) All() []netip.Addr {
	var all []netip.Addr
	for s := l.list; len(s) >= 16; s = s[16:] {
		all = append(all, netip.AddrFrom16([16]byte([]byte(s[:16]))).Unmap())
	}
	return all
}

// String returns the addresses with commas between them.
func (l AddrList) String() string {
	var texts []string
	for _, a := range l.All() {
		texts = append(texts, a.String())
	}
	return strings.Join(texts, ",")
}

// Addrs returns all that the endpoint can be reached at, Addr first, in a slice of the caller's.
func (ep Endpoint) Addrs() []netip.AddrPort {
	all := []netip.AddrPort{ep.Addr}
	for _, a := range ep.Also.All() {
		all = append(all, netip.AddrPortFrom(a, ep.Addr.Port()))
	}
	return all
}
