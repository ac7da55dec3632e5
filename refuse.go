package mesh

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
)

// refuse tells a verified peer why it may not connect, in the protocol it speaks, and closes the
// connection. It blocks, for keptTimeout at most.
func (m *Mesh) refuse(ctx context.Context, sc *serverConn, t *tls.Conn, d *DeniedError) {
	p := t.ConnectionState().NegotiatedProtocol
	isHTTP := p == alpnHTTP2 || p == alpnHTTP1 || sc.deferred
	switch tell := m.httpRefusal(); {
	case sc.raw != nil:
		sc.raw.reset(d)
	case isHTTP && tell != nil:
		tell(ctx, sc, t, d)
	default:
		_ = t.Close() // a protocol of which we know no word
	}
}

// problem is an RFC 9457 problem document.
type problem struct {
	Type   string          `json:"type"`
	Title  string          `json:"title"`
	Status int             `json:"status"`
	Detail string          `json:"detail"`
	Denied json.RawMessage `json:"denied,omitempty"`
}

// writeDenied answers a request with the denial: 403 and a problem document, or what gRPC expects.
func writeDenied(w http.ResponseWriter, r *http.Request, d *DeniedError) {
	h := w.Header()
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		// A response of headers alone; gRPC over HTTP2, "Responses".
		h.Set("Content-Type", "application/grpc")
		h.Set("Grpc-Status", "7") // PERMISSION_DENIED
		h.Set("Grpc-Message", url.PathEscape(d.Told().Error()))
		if d.Tell {
			h.Set("Grpc-Status-Details-Bin", base64.RawStdEncoding.EncodeToString(grpcDenied(d)))
		}
		w.WriteHeader(http.StatusOK)
		return
	}
	h.Set(deniedHeader, encodeDenied(d))
	p := problem{Type: "about:blank", Title: "Denied by the rules of the mesh", Status: http.StatusForbidden, Detail: d.Told().Error()}
	if d.Tell {
		p.Denied = deniedJSON(d)
	}
	body, err := json.Marshal(p)
	if err != nil {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	h.Set("Content-Type", "application/problem+json")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(http.StatusForbidden)
	_, _ = w.Write(append(body, '\n'))
}

// grpcDenied is the denial as a google.rpc.Status in protobuf, as package meshgrpc sends it: with a google.rpc.ErrorInfo, in whose
// metadata the denial is (https://google.aip.dev/193#errorinfo).
func grpcDenied(d *DeniedError) []byte {
	field := func(to []byte, number byte, value string) []byte {
		to = binary.AppendUvarint(append(to, number<<3|2), uint64(len(value)))
		return append(to, value...)
	}
	entry := field(field(nil, 1, "mesh-denied"), 2, encodeDenied(d))
	info := field(field(field(nil, 1, "MESH_DENIED"), 2, "github.com/intramesh/mesh"), 3, string(entry))
	detail := field(field(nil, 1, "type.googleapis.com/google.rpc.ErrorInfo"), 2, string(info))
	return field(field([]byte{1 << 3, 7}, 2, d.Told().Error()), 3, string(detail)) // the code is PERMISSION_DENIED
}
