package mesh_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/meshtest"
)

var ordersMayCallPayments = rule{from: "orders", to: "payments"}

// get returns the body of a GET, which must succeed.
func get(t *testing.T, c *http.Client, url string) string {
	t.Helper()
	body, err := tryGet(t.Context(), c, url)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func tryGet(ctx context.Context, c *http.Client, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	return do(c, req)
}

func do(c *http.Client, req *http.Request) (string, error) {
	resp, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %s: %s", resp.Status, body)
	}
	return string(body), err
}

func newRequest(t *testing.T, method, url string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// serveOn serves h on a listener of m's default port until the test ends.
func (w *world) serveOn(m *mesh.Mesh, ln net.Listener, h http.HandlerFunc) {
	w.t.Helper()
	srv := &http.Server{Handler: m.Handler(h), ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(ln)
	}()
	w.t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
}

// serveAs joins one more instance of payments that answers with a name.
func (w *world) serveAs(name string) {
	w.t.Helper()
	w.serveHTTP(w.join("payments"), func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, name) })
}

func TestTransportRequestAsTheServerSeesIt(t *testing.T) {
	w := newWorld(t, ordersMayCallPayments, rule{from: "orders", to: "billing/invoices"})
	see := func(rw http.ResponseWriter, r *http.Request) {
		p, _ := mesh.PeerFromContext(r.Context())
		fmt.Fprintf(rw, "%s %s %s tls=%v from=%s port=%q", r.Proto, r.Host, r.URL.Path, r.TLS != nil, p.Service(), p.Port)
	}
	payments, invoices := w.join("payments"), w.join("billing/invoices")
	w.serveHTTP(payments, see)
	w.serveHTTP(payments, see, "admin")
	w.serveHTTP(invoices, see, "web")
	c := w.join("orders").HTTPClient()
	for url, want := range map[string]string{
		"http://payments/charge":         `HTTP/2.0 payments /charge tls=true from=orders port=""`,
		"https://payments:443/":          `HTTP/2.0 payments / tls=true from=orders port=""`,
		"http://_admin.payments/":        `HTTP/2.0 payments / tls=true from=orders port="admin"`,
		"http://_web.billing.invoices/x": `HTTP/2.0 billing.invoices /x tls=true from=orders port="web"`,
	} {
		if got := get(t, c, url); got != want {
			t.Errorf("%s: the server saw\n%s, want\n%s", url, got, want)
		}
	}

	req := newRequest(t, http.MethodGet, "http://payments/", nil)
	req.Host = "shop.example"
	before := *req
	resp, err := c.Transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if !strings.Contains(string(body), "shop.example") {
		t.Errorf("Request.Host was lost: %s", body)
	}
	if req.URL.Scheme != "http" || req.Host != before.Host || req.Context() != before.Context() {
		t.Error("RoundTrip changed the request")
	}
	if resp.Request != req {
		t.Error("Response.Request is not the request")
	}
}

func TestTransportOverHTTP1(t *testing.T) {
	w := newWorld(t, ordersMayCallPayments)
	payments := w.join("payments")
	w.serveOn(payments, w.listen(payments, mesh.ListenOptions{ALPN: []string{"http/1.1"}}), func(rw http.ResponseWriter, r *http.Request) {
		fmt.Fprint(rw, r.Proto)
	})
	c := w.join("orders").HTTPClient()
	reused := 0
	trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
		if i.Reused {
			reused++
		}
	}}
	for range 3 {
		req := newRequest(t, http.MethodGet, "http://payments/", nil)
		body, err := do(c, req.WithContext(httptrace.WithClientTrace(t.Context(), trace)))
		if err != nil || body != "HTTP/1.1" {
			t.Fatal(body, err)
		}
	}
	if reused != 2 {
		t.Errorf("of 3 requests %d used an existing connection, want 2", reused)
	}
}

func TestTransportStreamsBothWays(t *testing.T) {
	w := newWorld(t, ordersMayCallPayments)
	w.serveHTTP(w.join("payments"), func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Trailer", "X-Lines")
		rw.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(rw).Flush()
		in, n := bufio.NewScanner(r.Body), 0
		for ; in.Scan(); n++ {
			fmt.Fprintln(rw, strings.ToUpper(in.Text()))
			_ = http.NewResponseController(rw).Flush()
		}
		rw.Header().Set("X-Lines", fmt.Sprint(n, " ", r.Trailer.Get("X-Sum")))
	})
	pr, pw := io.Pipe()
	req := newRequest(t, http.MethodPost, "http://payments/", pr)
	req.Trailer = http.Header{"X-Sum": nil}
	resp, err := w.join("orders").HTTPClient().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answers := bufio.NewReader(resp.Body)
	for _, line := range []string{"ping", "pong"} { // each answer comes before the next question
		fmt.Fprintln(pw, line)
		if got, err := answers.ReadString('\n'); err != nil || got != strings.ToUpper(line)+"\n" {
			t.Fatalf("answer %q, %v", got, err)
		}
	}
	req.Trailer.Set("X-Sum", "42")
	pw.Close()
	if rest, err := io.ReadAll(answers); err != nil || len(rest) > 0 {
		t.Fatalf("rest %q, %v", rest, err)
	}
	if got := resp.Trailer.Get("X-Lines"); got != "2 42" {
		t.Errorf("trailer %q, want 2 42", got)
	}
}

func TestTransportUpgrade(t *testing.T) {
	w := newWorld(t, ordersMayCallPayments)
	w.serveHTTP(w.join("payments"), func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "echo" {
			fmt.Fprint(rw, r.Proto)
			return
		}
		c, buf, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			http.Error(rw, err.Error(), http.StatusInternalServerError)
			return
		}
		defer c.Close()
		fmt.Fprint(buf, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_ = buf.Flush()
		_, _ = io.Copy(c, buf)
	})
	c := w.join("orders").HTTPClient()
	if got := get(t, c, "http://payments/"); got != "HTTP/2.0" {
		t.Fatalf("without Upgrade the server saw %s", got)
	}
	req := newRequest(t, http.MethodGet, "http://payments/", nil)
	req.Header.Set("Connection", "keep-alive, Upgrade")
	req.Header.Set("Upgrade", "echo")
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(resp.Status)
	}
	rw, ok := resp.Body.(io.ReadWriteCloser)
	if !ok {
		t.Fatalf("the body is a %T, which can't be written to", resp.Body)
	}
	fmt.Fprintln(rw, "hello")
	if got, err := bufio.NewReader(rw).ReadString('\n'); err != nil || got != "hello\n" {
		t.Errorf("echo %q, %v", got, err)
	}
}

func TestTransportCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.New(t, meshtest.Allow("payments", "orders"))
		gone := make(chan struct{}, 2)
		serveCounted(t, n, 0, func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/body" {
				_ = http.NewResponseController(rw).Flush()
			}
			<-r.Context().Done()
			gone <- struct{}{}
		})
		c := n.Join(t, "orders").HTTPClient()

		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := tryGet(ctx, c, "http://payments/header"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("waiting for the header: %v", err)
		}
		<-gone

		ctx, cancel = context.WithCancel(t.Context())
		defer cancel()
		req := newRequest(t, http.MethodGet, "http://payments/body", nil).WithContext(ctx)
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		cancel()
		if _, err := io.ReadAll(resp.Body); !errors.Is(err, context.Canceled) {
			t.Errorf("reading the body: %v", err)
		}
		<-gone
	})
}

func TestTransportInformationalResponses(t *testing.T) {
	w := newWorld(t, ordersMayCallPayments)
	w.serveHTTP(w.join("payments"), func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body) // sends 100 Continue
		rw.Header().Set("Link", "</style.css>")
		rw.WriteHeader(http.StatusEarlyHints)
		_, _ = rw.Write(body)
	})
	var got []int
	trace := &httptrace.ClientTrace{
		Got1xxResponse: func(code int, _ textproto.MIMEHeader) error { got = append(got, code); return nil },
	}
	req := newRequest(t, http.MethodPost, "http://payments/", strings.NewReader("card"))
	req.Header.Set("Expect", "100-continue")
	body, err := do(w.join("orders").HTTPClient(), req.WithContext(httptrace.WithClientTrace(t.Context(), trace)))
	if err != nil || body != "card" {
		t.Fatal(body, err)
	}
	if !slices.Equal(got, []int{100, 103}) {
		t.Errorf("informational responses %v, want 100 and 103", got)
	}
}

func TestTransportDenials(t *testing.T) {
	w := newWorld(t, rule{from: "orders", to: "payments", path: "/ok"})
	payments := w.join("payments")
	w.serveHTTP(payments, func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, "ok") })
	w.serveHTTP(payments, func(http.ResponseWriter, *http.Request) {}, "admin")
	for _, c := range []struct{ from, url, layer string }{
		{"orders", "http://payments/no", "http"},
		{"stranger", "http://payments/ok", "connection"},
	} {
		client := w.join(c.from).HTTPClient()
		resp, err := client.Do(newRequest(t, http.MethodPost, c.url, strings.NewReader("x")))
		if err != nil {
			t.Errorf("%s %s: %v", c.from, c.url, err)
			continue
		}
		resp.Body.Close()
		d, ok := mesh.DeniedFromResponse(resp)
		if !ok {
			t.Errorf("%s %s: %s carries no denial: %v", c.from, c.url, resp.Status, resp.Header)
			continue
		}
		if d.Source != "spiffe://prod.example/"+c.from || d.Destination != "payments" || d.Layer.String() != c.layer {
			t.Errorf("%s %s: %+v", c.from, c.url, d)
		}
	}
}

func TestTransportErrors(t *testing.T) {
	w := newWorld(t, ordersMayCallPayments)
	w.serveHTTP(w.join("payments"), func(http.ResponseWriter, *http.Request) {}, "web")
	orders := w.join("orders")
	tr := orders.Transport()
	for _, c := range []struct {
		url     string
		closing bool
		want    string
	}{
		{"http://nobody/", false, "discovery does not know the service"},
		{"http://payments/", false, "no port default; known ports: web"},
		{"http://Payments/", false, `character 'P'`},
		{"http://_web/", false, "want _port.service"},
		{"ftp://payments/", false, "unsupported protocol scheme"},
		{"http://_web.payments/", true, "mesh: closed"},
	} {
		if c.closing {
			orders.Close()
		}
		u, err := url.Parse(c.url)
		if err != nil {
			t.Fatal(err)
		}
		body := &closeCounter{Reader: strings.NewReader("x")}
		resp, err := tr.RoundTrip(&http.Request{Method: http.MethodPost, URL: u, Header: http.Header{}, Body: body})
		if err == nil {
			resp.Body.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.url, err, c.want)
		}
		if body.closed != 1 {
			t.Errorf("%s: the body was closed %d times", c.url, body.closed)
		}
		if errors.Is(err, mesh.ErrClosed) != c.closing || errors.Is(err, net.ErrClosed) != c.closing {
			t.Errorf("%s: ErrClosed: %v", c.url, err)
		}
	}
}

// A body of which nothing was read is kept for another attempt, and must be closed all the same.
func TestTransportClosesUnreadBody(t *testing.T) {
	w := newWorld(t, ordersMayCallPayments)
	w.serveHTTP(w.join("payments"), func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusNoContent) })
	pr, pw := io.Pipe()
	req := newRequest(t, http.MethodPost, "http://payments/", pr)
	req.Header.Set("Expect", "100-continue")
	resp, err := w.join("orders").HTTPClient().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if _, err := io.WriteString(pw, "x"); !errors.Is(err, io.ErrClosedPipe) { // blocks until it is read or closed
		t.Errorf("writing to a body that nobody reads: %v", err)
	}
}

type closeCounter struct {
	io.Reader
	mu     sync.Mutex
	closed int
}

func (c *closeCounter) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed++
	return nil
}
