package mesh

import (
	"encoding/json"
	"net/http"
	"strings"
	"unicode/utf16"
)

const (
	// deniedHeader carries a DeniedError on a 403 response.
	deniedHeader = "Mesh-Denied"
	// maxDeniedHeader bounds what is written and what is believed. Clients and servers limit
	// all headers of a message together.
	maxDeniedHeader = 4 << 10
)

// encodeDenied returns d as one line of JSON in printable ASCII, as headers and gRPC metadata want
// it, at most maxDeniedHeader long: what does not fit is left out, the reason first.
func encodeDenied(d *DeniedError) string {
	s := asciiJSON(d)
	if len(s) > maxDeniedHeader {
		short := *d
		short.Reason = "(too long to be sent)"
		s = asciiJSON(&short)
	}
	if len(s) > maxDeniedHeader {
		return ""
	}
	return s
}

func asciiJSON(d *DeniedError) string {
	raw, err := json.Marshal(d)
	if err != nil {
		return "" // a layer or verdict that is none
	}
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

// decodeDenied reads what encodeDenied wrote. The value comes from a peer: it says what the peer claims.
func decodeDenied(s string) (*DeniedError, bool) {
	if s == "" || len(s) > maxDeniedHeader {
		return nil, false
	}
	d := new(DeniedError)
	err := json.Unmarshal([]byte(s), d)
	return d, err == nil && d.Destination != ""
}

// DeniedFromResponse returns the denial that a 403 response of a mesh server carries: of the request, or of the
// connection it came by. It does not touch the body.
func DeniedFromResponse(r *http.Response) (*DeniedError, bool) {
	if r == nil || r.StatusCode != http.StatusForbidden {
		return nil, false
	}
	return decodeDenied(r.Header.Get(deniedHeader))
}
