package mesh

import (
	"encoding/json"
	"net/http"
	"strings"
	"unicode/utf16"

	"github.com/intramesh/mesh/internal/strictjson"
	"github.com/intramesh/mesh/policy"
)

const (
	// deniedHeader carries a DeniedError on a 403 response.
	deniedHeader = "Mesh-Denied"
	// maxDeniedHeader bounds what is written and what is believed. Clients and servers limit
	// all headers of a message together.
	maxDeniedHeader = 4 << 10
)

// encodeDenied returns what the caller may know of d as one line of JSON in printable ASCII, as headers and gRPC metadata want
// it, at most maxDeniedHeader long: what does not fit is left out, the reason first.
func encodeDenied(d *DeniedError) string {
	s := ascii(deniedJSON(d))
	if len(s) > maxDeniedHeader {
		short := *d
		short.Reason = "(too long to be sent)"
		s = ascii(deniedJSON(&short))
	}
	if len(s) > maxDeniedHeader {
		return ""
	}
	return s
}

// deniedJSON returns what the caller may know of d, nil when d can't be said. A denial without explanation has no fields that
// would be one.
func deniedJSON(d *DeniedError) []byte {
	var v any = d.Told()
	if !d.Tell {
		bare := map[string]string{
			"source": d.Source, "destination": d.Destination, "verdict": d.Verdict.String(), "layer": d.Layer.String(),
		}
		if d.Port != "" {
			bare["port"] = d.Port
		}
		v = bare
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return nil // a layer or verdict that is none
	}
	return raw
}

func ascii(raw []byte) string {
	var b strings.Builder
	for _, r := range string(raw) {
		if r < 0x7f {
			b.WriteRune(r) // control characters json has escaped
			continue
		}
		for _, u := range utf16.Encode([]rune{r}) {
			const hex = "0123456789abcdef"
			b.Write([]byte{'\\', 'u', hex[u>>12], hex[u>>8&15], hex[u>>4&15], hex[u&15]})
		}
	}
	return b.String()
}

// parseDenied reads what deniedJSON wrote. It comes from a peer: it says what the peer claims.
func parseDenied(raw []byte) (*DeniedError, bool) {
	d := &DeniedError{Decision: policy.Decision{Rule: -1}}
	err := strictjson.Unmarshal(raw, d)
	return d, err == nil && d.Destination != ""
}

// decodeDenied reads what encodeDenied wrote.
func decodeDenied(s string) (*DeniedError, bool) {
	if s == "" || len(s) > maxDeniedHeader {
		return nil, false
	}
	return parseDenied([]byte(s))
}

// DeniedFromResponse returns the denial that a 403 response of a mesh server carries: of the request, or of the
// connection it came by. It does not touch the body.
func DeniedFromResponse(r *http.Response) (*DeniedError, bool) {
	if r == nil || r.StatusCode != http.StatusForbidden {
		return nil, false
	}
	return decodeDenied(r.Header.Get(deniedHeader))
}
