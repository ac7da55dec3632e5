package mesh_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh/meshtest"
)

// outcome is what a caller sees of an answer.
type outcome struct {
	Status          string
	Proto           string
	Header, Trailer http.Header
	Length          int64
	Encoding        []string
	Close           bool
	Body            string
	Failed, Broken  bool
}

// outcomeOf makes a request, reads all that comes, and lets everything settle. Late says that the deadline passed before the end of the body.
func outcomeOf(t *testing.T, rt http.RoundTripper, method string) (o outcome, late bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	req := newRequest(t, method, "http://payments/", nil).WithContext(ctx)
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return outcome{Failed: true}, false
	}
	if resp.StatusCode == http.StatusSwitchingProtocols { // which the mesh refuses
		_ = resp.Body.Close()
		return outcome{Failed: true}, false
	}
	b, err := io.ReadAll(resp.Body)
	late = ctx.Err() != nil
	_ = resp.Body.Close()
	synctest.Wait()
	return outcome{
		resp.Status, resp.Proto, resp.Header, resp.Trailer, resp.ContentLength, resp.TransferEncoding, resp.Close, string(b), false, err != nil,
	}, late
}

// sameAsNetHTTP compares what the mesh makes of an answer with what http.Transport does, and how often either connects for three requests.
func sameAsNetHTTP(t *testing.T, method, answer string, closes bool) {
	t.Helper()
	n := meshtest.New(t, meshtest.Allow("payments", "orders"))
	s := serveScript(t, n, func(c net.Conn, _ *http.Request) bool { return say(c, answer) && !closes })
	orders := n.Join(t, "orders")
	std := &http.Transport{
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return orders.DialEndpoint(ctx, "payments", addrOf(s.ln), "http/1.1")
		},
		DisableCompression: true, MaxResponseHeaderBytes: 1 << 20,
	}
	defer std.CloseIdleConnections()
	// The mesh does not return an answer that breaks off before its body, if it could get another.
	for i := range 3 {
		want, late := outcomeOf(t, secure{std}, method)
		want.Broken = want.Broken || late // it says goodbye then, and may take the server's for the end of the body
		before := s.conns.Load()
		got, _ := outcomeOf(t, orders.Transport(), method)
		if got.Failed && want.Broken {
			continue
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("request %d: got  %+v\nwant %+v", i, got, want)
		}
		if opened := s.conns.Load() - before; i > 0 && opened > 0 && !got.Failed && reusable(method, answer) && !closes {
			t.Fatalf("request %d: another connection", i)
		} else if i > 0 && opened == 0 && !got.Failed && !reusable(method, answer) {
			t.Fatalf("request %d: the connection carries another request", i)
		}
	}
}

// secure has http.Transport speak TLS.
type secure struct{ rt http.RoundTripper }

func (s secure) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL.Scheme = "https"
	return s.rt.RoundTrip(r)
}

// reusable reports whether an answer leaves its connection as it was: it ends by itself, at the last byte.
func reusable(method, answer string) bool {
	br := bufio.NewReaderSize(strings.NewReader(answer), max(16, len(answer)))
	for {
		resp, err := http.ReadResponse(br, &http.Request{Method: method})
		if err != nil {
			return false
		}
		if resp.StatusCode >= 100 && resp.StatusCode < 200 && resp.StatusCode != http.StatusSwitchingProtocols {
			continue
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.Close || resp.StatusCode < 200 {
			return false
		}
		return br.Buffered() == 0
	}
}

// Two answers to one request, or half of one, in all spellings.
var answers = []string{
	"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell",
	"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 204 No Content\r\n\r\n",
	"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nwell",
	"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nwell",
	"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\nwell",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwell\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Sum\r\n\r\n4\r\nwell\r\n0\r\nSum: 7\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n4\r\nwell\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nwell",
	"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nwell",
	"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell",
	"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
	"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nwell",
	"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwellHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
	"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
	"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell\n",
	"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nwell",
	"HTTP/1.1 200 OK\r\nContent-Length: +4\r\n\r\nwell",
	"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nwell",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwe",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\nwell",
	"HTTP/1.1 200 OK\r\nBad Header: 4\r\n\r\nwell",
	"HTTP/1.1 2000 OK\r\n\r\nwell",
	"HTTP/2.0 200 OK\r\nContent-Length: 4\r\n\r\nwell",
	"ICY 200 OK\r\n\r\nwell",
	"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n",
	"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 2<<20) + "\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 100000),
	"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 100001),
	"well",
	"",
}

// Whatever a server answers, a caller sees the same as with http.Transport, and a connection that the answer does not leave as it was
// carries no other request.
func TestDirectAnswersAreThoseOfNetHTTP(t *testing.T) {
	for i, answer := range answers {
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodDelete} {
			for _, closes := range []bool{false, true} {
				if closes && method == http.MethodDelete {
					continue // it matters only that a DELETE is not repeated
				}
				t.Run(fmt.Sprint(method, i, closes), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { sameAsNetHTTP(t, method, answer, closes) })
				})
			}
		}
	}
}

func FuzzDirectAnswers(f *testing.F) {
	for _, a := range answers {
		if len(a) < 1000 {
			f.Add(a, false, true)
			f.Add(a, true, false)
		}
	}
	f.Fuzz(func(t *testing.T, answer string, head, closes bool) {
		method := http.MethodGet
		if head {
			method = http.MethodHead
		}
		synctest.Test(t, func(t *testing.T) { sameAsNetHTTP(t, method, answer, closes) })
	})
}
