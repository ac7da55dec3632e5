package mesh_test

import (
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/policy"
)

func denial(reason string) *mesh.DeniedError {
	return &mesh.DeniedError{
		Source: "spiffe://prod.example/orders", Destination: "payments", Port: "admin",
		Decision: policy.Decision{Policy: "payments-callers", Rule: 2, Version: 7, Layer: policy.LayerHTTP, Tell: true, Reason: reason},
	}
}

func TestDeniedFitsAHeader(t *testing.T) {
	for _, reason := range []string{
		"no rule allows orders",
		"quotes \" and \\, <tags>, tabs\tand\r\nlines, DEL \x7f",
		"größer, 大, 😀", // beyond the basic plane, too
	} {
		want := denial(reason)
		s := want.Encode()
		for _, c := range []byte(s) {
			if c < ' ' || c > '~' {
				t.Errorf("%q: byte %#x is not printable ASCII", s, c)
			}
		}
		got, ok := mesh.ParseDenied(s)
		want.Tell = false // it is not for the caller
		if !ok || !reflect.DeepEqual(got, want) {
			t.Errorf("%s came back as %+v", s, got)
		}
	}
	long := denial(strings.Repeat("because ", 1000)).Encode()
	got, ok := mesh.ParseDenied(long)
	if !ok || len(long) > 4<<10 || got.Policy != "payments-callers" || got.Rule != 2 {
		t.Errorf("with a long reason: %d bytes, %+v", len(long), got)
	}
}

func TestDeniedFromResponse(t *testing.T) {
	with := func(status int, value string) *http.Response {
		return &http.Response{StatusCode: status, Header: http.Header{"Mesh-Denied": {value}}}
	}
	good := denial("no").Encode()
	if d, ok := mesh.DeniedFromResponse(with(http.StatusForbidden, good)); !ok || d.Policy != "payments-callers" {
		t.Errorf("%+v, %v", d, ok)
	}
	for name, r := range map[string]*http.Response{
		"nil":           nil,
		"no header":     {StatusCode: http.StatusForbidden},
		"not a refusal": with(http.StatusOK, good),
		"not JSON":      with(http.StatusForbidden, "no"),
		"nobody's":      with(http.StatusForbidden, "{}"),
		"too long":      with(http.StatusForbidden, good+strings.Repeat(" ", 4<<10)),
	} {
		if d, ok := mesh.DeniedFromResponse(r); ok {
			t.Errorf("%s: taken for %+v", name, d)
		}
	}
}

func FuzzParseDenied(f *testing.F) {
	f.Add(denial("no").Encode())
	f.Add(`{"destination":"x","layer":"grpc","rule":-1}`)
	f.Fuzz(func(t *testing.T, s string) {
		d, ok := mesh.ParseDenied(s)
		if !ok {
			return
		}
		_ = d.Error()
		if e := d.Encode(); e != "" {
			if _, ok := mesh.ParseDenied(e); !ok {
				t.Errorf("%q does not parse", e)
			}
		}
	})
}
