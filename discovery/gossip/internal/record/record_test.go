package record_test

import (
	"bytes"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/gossip/internal/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var member = netip.MustParseAddr("192.0.2.1")

func sample() record.Record {
	at, also := netip.MustParseAddrPort, discovery.AddrsOf(netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("198.51.100.1"))
	return record.Record{
		Zone: "eu-west-1a", Generation: 1_800_000_000_000, Bundle: 17, Cert: record.HashOf([]byte("a certificate")),
		Endpoints: []discovery.Endpoint{
			{Service: "payments", Instance: "i", Zone: "eu-west-1a", Addr: at("192.0.2.1:443"), Weight: 300, Also: also},
			{Service: "payments", Port: "admin", Instance: "i", Addr: at("192.0.2.9:1"), State: discovery.Draining, Also: also},
			{Service: "a/b", Instance: "i", Zone: "elsewhere", Addr: at("[2001:db8::1]:65535"), State: discovery.Starting},
		},
	}
}

func TestRoundTrip(t *testing.T) {
	for _, want := range []record.Record{{}, sample()} {
		b := want.Encode(member)
		got, err := record.Decode(b, "i", member)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	if b := sample().Encode(member); len(b) > 166 { // two more addresses take 26 bytes, and once again 1

		t.Errorf("three endpoints take %d bytes", len(b))
	}
}

func TestUnknownIsSkipped(t *testing.T) {
	b := append(sample().Encode(member), 200, 3, 'n', 'e', 'w') // a field of a later version
	got, err := record.Decode(b, "i", member)
	if err != nil || !reflect.DeepEqual(got, sample()) {
		t.Errorf("got %+v, %v", got, err)
	}
	// An endpoint with something after what is known today.
	b = []byte{1, 3, 8, 0, 0, 80, 1, 'a', 0, 'x', 'y'}
	got, err = record.Decode(b, "i", member)
	if err != nil || len(got.Endpoints) != 1 || got.Endpoints[0].Addr.Port() != 80 {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestMalformed(t *testing.T) {
	whole := sample().Encode(member)
	for name, b := range map[string][]byte{
		"version":       {2},
		"no length":     {1, 3},
		"long length":   {1, 3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01},
		"truncated":     whole[:len(whole)-1],
		"no service":    {1, 3, 5, 0, 0, 80, 0, 0},
		"no port":       {1, 3, 6, 0, 0, 0, 1, 'a', 0},
		"invalid state": {1, 3, 6, 3, 0, 80, 1, 'a', 0},
		"escape":        {1, 3, 6, 0, 0, 80, 1, 0x1b, 0},
		"short IPv6":    {1, 3, 8, 1 << 4, 0, 80, 1, 'a', 0, 1, 2},
		"heavy":         {1, 3, 9, 1 << 2, 0, 80, 1, 'a', 0, 0xff, 0xff, 0x7f},
		"short hash":    {1, 5, 1, 0},
		"short address": {1, 3, 10, 1 << 6, 0, 80, 1, 'a', 0, 3, 2, 1, 2},
		"long address":  {1, 3, 10, 1 << 6, 0, 80, 1, 'a', 0, 3, 4, 1, 2},
		"nowhere":       {1, 3, 12, 1 << 6, 0, 80, 1, 'a', 0, 5, 4, 0, 0, 0, 0},
		"port twice":    {1, 3, 6, 0, 0, 80, 1, 'a', 0, 3, 6, 0, 0, 81, 1, 'a', 0},
		"after the end": append(append(bytes.Clone(whole), 6, 1, 0), 2, 1, 9),
		"too large":     append(whole, bytes.Repeat([]byte{200, 0}, 256)...),
	} {
		if r, err := record.Decode(b, "i", member); err == nil {
			t.Errorf("%s: decoded as %+v", name, r)
		}
	}
}

func TestCheck(t *testing.T) {
	good := discovery.Endpoint{Service: "payments", Addr: netip.MustParseAddrPort("192.0.2.1:1")}
	if err := record.Check(good); err != nil {
		t.Error(err)
	}
	for _, spoil := range []func(*discovery.Endpoint){
		func(ep *discovery.Endpoint) { ep.Service = "" },
		func(ep *discovery.Endpoint) { ep.Service = strings.Repeat("a", 254) },
		func(ep *discovery.Endpoint) { ep.Port = "a b" },
		func(ep *discovery.Endpoint) { ep.Zone = "\x1b[2J" },
		func(ep *discovery.Endpoint) { ep.Addr = netip.AddrPort{} },
		func(ep *discovery.Endpoint) { ep.State = 3 },
		func(ep *discovery.Endpoint) { ep.Also = discovery.AddrsOf(netip.IPv6Unspecified()) },
	} {
		ep := good
		spoil(&ep)
		if err := record.Check(ep); err == nil {
			t.Errorf("accepted %+v", ep)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(sample().Encode(member))
	f.Add([]byte{1, 3, 6, 0, 0, 80, 1, 'a', 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := record.Decode(b, "i", member)
		if err != nil {
			return
		}
		// What was understood can be announced again, and means the same.
		again, err := record.Decode(r.Encode(member), "i", member)
		if err != nil && len(r.Encode(member)) <= record.MaxSize {
			t.Fatalf("%+v: %v", r, err)
		}
		if err == nil && !reflect.DeepEqual(again, r) {
			t.Fatalf("%+v became %+v", r, again)
		}
	})
}
