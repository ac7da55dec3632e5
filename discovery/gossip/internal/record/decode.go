package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/intramesh/mesh/discovery"
)

var errTruncated = errors.New("truncated")

// Decode reads what instance, known by the IP member, announced. Its cost is bounded by
// MaxSize; the result shares no memory with b. An empty b is an empty record.
func Decode(b []byte, instance string, member netip.Addr) (Record, error) {
	var r Record
	if len(b) == 0 {
		return r, nil
	}
	if len(b) > MaxSize {
		return r, fmt.Errorf("record of %d bytes", len(b))
	}
	if b[0] != version {
		return r, fmt.Errorf("record version %d", b[0])
	}
	d := decoder{b: b[1:]}
	var endpoints []decoder
	for len(d.b) > 0 && !d.bad {
		switch tag, value := d.byte(), d.bytes(); tag {
		case tagZone:
			r.Zone = string(value)
		case tagGeneration:
			r.Generation = d.number(value)
		case tagBundle:
			r.Bundle = d.number(value)
		case tagCert:
			d.bad = d.bad || copy(r.Cert[:], value) != len(r.Cert)
		case tagLeft:
			r.Left = true
		case tagSignature:
			d.bad = d.bad || len(d.b) > 0
		case tagEndpoint:
			endpoints = append(endpoints, decoder{b: value})
		}
	}
	if d.bad {
		return Record{}, errTruncated
	}
	if len(r.Zone) > maxName || !printable(r.Zone) {
		return Record{}, fmt.Errorf("zone %.80q", r.Zone)
	}
	var before discovery.AddrList
	for i := range endpoints {
		ep := endpoints[i].endpoint(r.Zone, member, before)
		before = ep.Also
		ep.Instance = instance
		if endpoints[i].bad {
			return Record{}, errTruncated
		}
		if err := Check(ep); err != nil {
			return Record{}, err
		}
		if slices.ContainsFunc(r.Endpoints, func(o discovery.Endpoint) bool { return o.Service == ep.Service && o.Port == ep.Port }) {
			return Record{}, fmt.Errorf("%s: port %q is announced twice", ep.Service, ep.Port)
		}
		r.Endpoints = append(r.Endpoints, ep)
	}
	return r, nil
}

// A decoder consumes b. After the first failure it returns zero values and bad is set.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) endpoint(zone string, member netip.Addr, before discovery.AddrList) discovery.Endpoint {
	flags, port := d.byte(), d.fixed(2)
	ep := discovery.Endpoint{
		Service: string(d.bytes()),
		Port:    string(d.bytes()),
		State:   discovery.State(flags & stateMask),
		Zone:    zone,
	}
	if flags&hasWeight != 0 {
		w := d.uvarint()
		d.bad = d.bad || w > 1<<16-1
		ep.Weight = uint16(w & (1<<16 - 1))
	}
	switch {
	case flags&hasIPv4 != 0:
		member, _ = netip.AddrFromSlice(d.fixed(4))
	case flags&hasIPv6 != 0:
		member, _ = netip.AddrFromSlice(d.fixed(16))
	}
	if flags&hasZone != 0 {
		ep.Zone = string(d.bytes())
	}
	if flags&hasAlso != 0 {
		ep.Also = before
		if also := (decoder{b: d.bytes()}); len(also.b) > 0 {
			ep.Also = also.addrs()
			d.bad = d.bad || also.bad
		}
	}
	if !d.bad {
		ep.Addr = netip.AddrPortFrom(member.Unmap(), binary.BigEndian.Uint16(port))
	}
	return ep
}

// addrs reads IPs until the end. Those that are more than fit are left out.
func (d *decoder) addrs() discovery.AddrList {
	var all []netip.Addr
	for len(d.b) > 0 && !d.bad {
		a, ok := netip.AddrFromSlice(d.bytes())
		d.bad = d.bad || !ok
		all = append(all, a)
	}
	return discovery.AddrsOf(all...)
}

// number reads a value that is one number.
func (d *decoder) number(value []byte) uint64 {
	v := decoder{b: value}
	n := v.uvarint()
	d.bad = d.bad || v.bad
	return n
}

func (d *decoder) fixed(n int) []byte {
	if d.bad || len(d.b) < n {
		d.bad = true
		return nil
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) byte() byte {
	if v := d.fixed(1); v != nil {
		return v[0]
	}
	return 0
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if d.bad || n <= 0 {
		d.bad = true
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) bytes() []byte {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.bad = true
		return nil
	}
	return d.fixed(int(n)) //nolint:gosec // at most len(d.b)
}
