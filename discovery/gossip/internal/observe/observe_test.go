package observe_test

import (
	"bytes"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/intramesh/mesh/discovery/gossip/internal/observe"
)

func all() []observe.Frame {
	d := new(observe.Digest)
	d.Add("a", netip.MustParseAddrPort("10.0.0.1:7946"), []byte("record"))
	return []observe.Frame{
		{Kind: observe.Want, Name: "payments"},
		{Kind: observe.Want, Name: strings.Repeat("p", 253), Digest: d},
		{Kind: observe.Drop, Name: "payments"},
		{Kind: observe.Beat},
		{Kind: observe.Hello, Members: 10_000},
		{Kind: observe.Hello, Full: true},
		{Kind: observe.Set, Name: "payments", Bits: 1<<63 | 1},
		{Kind: observe.Record, Name: "k3j5h2g4", Addr: netip.MustParseAddrPort("10.0.0.1:7946"), Meta: bytes.Repeat([]byte{1}, 512)},
		{Kind: observe.Record, Name: "k3j5h2g4", Addr: netip.MustParseAddrPort("[2001:db8::1]:7946"), Meta: []byte("record"), Dead: true},
		{Kind: observe.Gone, Name: "k3j5h2g4"},
		{Kind: observe.End, Name: "payments"},
		{Kind: observe.Peer, Name: "k3j5h2g4", Addr: netip.MustParseAddrPort("10.0.0.1:7946"), Meta: []byte{1}},
	}
}

func TestFramesReadAsWritten(t *testing.T) {
	var b []byte
	for _, f := range all() {
		b = f.Append(b)
	}
	r, buf := bytes.NewReader(b), make([]byte, observe.MaxFrame)
	for _, want := range all() {
		got, err := observe.Read(r, buf)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v, %v; want %+v", got, err, want)
		}
	}
	if _, err := observe.Read(r, buf); err == nil {
		t.Error("a frame after the last one")
	}
}

func TestMalformed(t *testing.T) {
	for _, b := range []string{
		"\x00\x00", "\x00\x02\x01\x00", "\xff\xff\x01", "\x04\xb1\x01",
		"\x00\x03\x01\x00\x00",                          // a service without name
		"\x00\x04\x01\x00\x01\n",                        // not printable
		"\x00\x04\x01\x04\x01p",                         // without its digest
		"\x00\x04\x01\x00\x02p",                         // a name that is longer than the frame
		"\x00\x04\x03\x00\x01p",                         // a beat with a name
		"\x00\x03\x10\x00\x00",                          // a hello without size
		"\x00\x04\x12\x00\x01p",                         // a record without address
		"\x00\x0a\x12\x00\x01p\x0a\x00\x00\x01\x00\x00", // port 0
		"\x00\x0a\x12\x00\x01p\x00\x00\x00\x00\x00\x01", // nowhere
	} {
		if f, err := observe.Read(strings.NewReader(b), make([]byte, observe.MaxFrame)); err == nil {
			t.Errorf("%q: got %+v", b, f)
		}
	}
}

func TestDigest(t *testing.T) {
	at := netip.MustParseAddrPort("10.0.0.1:7946")
	var a, b observe.Digest
	for _, name := range []string{"x", "y", "z"} {
		a.Add(name, at, []byte(name))
	}
	for _, name := range []string{"z", "x", "y"} {
		b.Add(name, at, []byte(name))
	}
	if bits := a.Differing(&b); bits != 0 {
		t.Errorf("the order matters: %b", bits)
	}
	b.Add("new", at, nil)
	if bits := a.Differing(&b); bits != 1<<observe.Bucket("new") {
		t.Errorf("got %b", bits)
	}
	if a.Differing(nil) != 1<<64-1 {
		t.Error("nothing is known, yet not all differs")
	}
	for i, change := range []func(d *observe.Digest){
		func(d *observe.Digest) { d.Add("x", netip.MustParseAddrPort("10.0.0.2:7946"), []byte("x")) },
		func(d *observe.Digest) { d.Add("x", at, []byte("y")) },
		func(d *observe.Digest) { d.Add("x", at, nil) },
	} {
		var c, d observe.Digest
		c.Add("x", at, []byte("x"))
		if change(&d); c.Differing(&d) == 0 {
			t.Errorf("%d: no difference", i)
		}
	}
}

func FuzzRead(f *testing.F) {
	for _, frame := range all() {
		f.Add(frame.Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := observe.Read(bytes.NewReader(b), make([]byte, observe.MaxFrame))
		if err != nil || got.Kind > observe.Beat && got.Kind < observe.Hello || got.Kind > observe.Peer {
			return
		}
		again, err := observe.Read(bytes.NewReader(got.Append(nil)), make([]byte, observe.MaxFrame))
		if err != nil || !reflect.DeepEqual(got, again) {
			t.Fatalf("%+v is read again as %+v, %v", got, again, err)
		}
	})
}
