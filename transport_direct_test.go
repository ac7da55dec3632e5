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
	"reflect"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/internal/testserve"
	"github.com/intramesh/mesh/meshtest"
)

// scripted is an instance of payments over HTTP/1.1 that answers with bytes.
type scripted struct {
	m     *mesh.Mesh
	ln    net.Listener
	conns atomic.Int32
	open  atomic.Int32
}

// serveScript has answer write to c what a request gets; the connection is closed when it returns false.
func serveScript(t *testing.T, n *meshtest.Net, answer func(c net.Conn, r *http.Request) bool) *scripted {
	t.Helper()
	s := &scripted{m: n.Join(t, "payments")}
	var err error
	if s.ln, err = s.m.Listen(t.Context(), "tcp", ":0", mesh.ListenOptions{ALPN: []string{"http/1.1"}}); err != nil {
		t.Fatal(err)
	}
	wait := testserve.Each(s.ln, func(c net.Conn) {
		s.conns.Add(1)
		s.open.Add(1)
		defer s.open.Add(-1)
		defer c.Close()
		for br := bufio.NewReader(c); ; {
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			if _, err := io.Copy(io.Discard, r.Body); err != nil || !answer(c, r) {
				return
			}
		}
	})
	t.Cleanup(func() { // the client, which joins later, is closed before
		s.ln.Close()
		wait()
	})
	return s
}

// say writes an answer, and keeps the connection.
func say(c net.Conn, answer string) bool {
	_, err := io.WriteString(c, answer)
	return err == nil
}

// direct runs a test in virtual time with a client of a scripted server.
func direct(t *testing.T, answer func(net.Conn, *http.Request) bool, f func(t *testing.T, s *scripted, c *http.Client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.New(t, meshtest.Allow("payments", "orders"))
		s := serveScript(t, n, answer)
		f(t, s, n.Join(t, "orders").HTTPClient())
	})
}

func (s *scripted) want(t *testing.T, when string, conns, open int32) {
	t.Helper()
	synctest.Wait()
	if c, o := s.conns.Load(), s.open.Load(); c != conns || o != open {
		t.Errorf("%s: %d connections, %d of them open; want %d and %d", when, c, o, conns, open)
	}
}

const well = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell"

// What comes when nothing was asked is no answer to the next request.
func TestDirectIgnoresWhatIsUnasked(t *testing.T) {
	var first atomic.Bool
	direct(t, func(c net.Conn, _ *http.Request) bool {
		if !first.Swap(true) {
			defer say(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
			defer pass(time.Second)
		}
		return say(c, well)
	}, func(t *testing.T, s *scripted, c *http.Client) {
		get(t, c, "http://payments/")
		pass(2 * time.Second)
		for range 3 {
			if got := get(t, c, "http://payments/"); got != "well" {
				t.Fatal(got)
			}
		}
		s.want(t, "in the end", 2, 1)
	})
}

// A connection has goroutines of its own only once it has carried a request that needs them.
func TestDirectIsGivenUpForABody(t *testing.T) {
	direct(t, func(c net.Conn, _ *http.Request) bool { return say(c, well) }, func(t *testing.T, s *scripted, c *http.Client) {
		loops := func() bool {
			b := make([]byte, 1<<20)
			return strings.Contains(string(b[:runtime.Stack(b, true)]), "net/http.(*persistConn)")
		}
		for i, method := range []string{http.MethodGet, http.MethodPost, http.MethodGet, http.MethodPut} {
			req := newRequest(t, method, "http://payments/", nil)
			if method == http.MethodPut {
				req = newRequest(t, method, "http://payments/", strings.NewReader("x"))
			}
			if got, err := do(c, req); err != nil || got != "well" {
				t.Fatal(got, err)
			}
			synctest.Wait()
			if got, want := loops(), method == http.MethodPut; got != want {
				t.Errorf("after request %d, a %s: goroutines of net/http: %v", i, method, got)
			}
		}
		for range 2 {
			get(t, c, "http://payments/")
		}
		s.want(t, "in the end", 1, 1)
	})
}

// What net/http refuses to send is not sent, and the connection is as good as before.
func TestDirectSendsNothingInvalid(t *testing.T) {
	var asked atomic.Int32
	direct(t, func(c net.Conn, _ *http.Request) bool { asked.Add(1); return say(c, well) }, func(t *testing.T, _ *scripted, c *http.Client) {
		for what, change := range map[string]func(*http.Request){
			"a header of two lines": func(r *http.Request) { r.Header.Set("X", "a\r\nY: b") },
			"a control character":   func(r *http.Request) { r.Header.Set("X", "\x00") },
			"a name of two words":   func(r *http.Request) { r.Header["X Y"] = []string{"a"} },
			"a name of two lines":   func(r *http.Request) { r.Header["X\r\nY"] = []string{"a"} },
			"no name":               func(r *http.Request) { r.Header[""] = []string{"a"} },
			"a method of two words": func(r *http.Request) { r.Method = "GET /x HTTP/1.1\r\nX:" },
			"a path of two lines":   func(r *http.Request) { r.URL.Opaque = "/x HTTP/1.1\r\nX: y" },
			"a query of two lines":  func(r *http.Request) { r.URL.RawQuery = "a HTTP/1.1\r\nX: y" },
			"a length":              func(r *http.Request) { r.ContentLength = 4 },
			"a malformed host":      func(r *http.Request) { r.Host = "pay\u0080ments\xff" },
		} {
			get(t, c, "http://payments/")
			before := asked.Load()
			req := newRequest(t, http.MethodGet, "http://payments/", nil)
			change(req)
			resp, err := c.Transport.RoundTrip(req)
			if err == nil {
				_ = resp.Body.Close()
			}
			if err == nil && what != "a malformed host" || asked.Load() != before && err != nil {
				t.Errorf("%s: %v, and the server was asked %d times", what, err, asked.Load()-before)
			}
		}
	})
}

// A request on which nobody waits any longer ends with its connection, whatever it is doing.
func TestDirectCancel(t *testing.T) {
	for _, doing := range []string{"waiting", "in the header", "in the body", "left alone"} {
		t.Run(doing, func(t *testing.T) {
			begun := make(chan struct{}, 1)
			direct(t, func(c net.Conn, r *http.Request) bool {
				switch {
				case r.URL.Path == "/":
					return say(c, well)
				case doing == "in the header":
					say(c, well[:20])
				case doing != "waiting":
					say(c, well[:len(well)-4])
				}
				begun <- struct{}{}
				_, _ = c.Read(make([]byte, 1))
				return false
			}, func(t *testing.T, s *scripted, c *http.Client) {
				get(t, c, "http://payments/")
				ctx, cancel := context.WithCancelCause(t.Context())
				cause := errors.New("enough")
				go func() {
					<-begun
					synctest.Wait()
					cancel(cause)
				}()
				// It can't be repeated, so that RoundTrip returns before the body.
				resp, err := c.Transport.RoundTrip(newRequest(t, http.MethodPost, "http://payments/hang", nil).WithContext(ctx))
				if err == nil {
					defer resp.Body.Close()
					if doing == "in the body" {
						_, err = resp.Body.Read(make([]byte, 1))
					}
				}
				if <-ctx.Done(); doing == "left alone" {
					synctest.Wait()
					s.want(t, "after a response that nobody reads", 1, 0)
				} else if !errors.Is(err, cause) {
					t.Error(err)
				}
				if got := get(t, c, "http://payments/"); got != "well" {
					t.Error(got)
				}
				s.want(t, "in the end", 2, 1)
			})
		})
	}
}

// So does a request for which the server has left no room.
func TestDirectCancelWhileWriting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.New(t, meshtest.Allow("payments", "orders"))
		asked := make(chan struct{})
		serveScript(t, n, func(c net.Conn, _ *http.Request) bool {
			for ok := say(c, well); ok; ok = say(c, well) { // and reads no other request
				<-asked
			}
			return false
		})
		c := n.Join(t, "orders").HTTPClient()
		trace := &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { asked <- struct{}{} }}
		req := newRequest(t, http.MethodPost, "http://payments/", nil)
		req.Header.Set("Filler", strings.Repeat("x", 7<<10))
		get(t, c, "http://payments/")
		var err error
		for begun := time.Now(); err == nil; {
			ctx, cancel := context.WithTimeout(httptrace.WithClientTrace(t.Context(), trace), time.Second)
			_, err = do(c, req.WithContext(ctx))
			if took := time.Since(begun); err != nil && (took != time.Second || !errors.Is(err, context.DeadlineExceeded)) {
				t.Errorf("it ended after %v: %v", took, err)
			}
			cancel()
		}
		close(asked)
	})
}

// A caller that closes a response early keeps the connection if the rest has come already, and what it reads afterwards is an error.
func TestDirectCloseEarly(t *testing.T) {
	direct(t, func(c net.Conn, r *http.Request) bool {
		switch r.URL.Path {
		case "/chunked":
			return say(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwell\r\n") && say(c, "0\r\n\r\n")
		case "/slow":
			return say(c, "HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n"+strings.Repeat("x", 1000))
		}
		return say(c, "HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n"+strings.Repeat("x", 2000))
	}, func(t *testing.T, s *scripted, c *http.Client) {
		for i, path := range []string{"/whole", "/whole", "/slow", "/whole", "/chunked", "/whole"} {
			resp, err := c.Do(newRequest(t, http.MethodPost, "http://payments"+path, nil))
			if err != nil {
				t.Fatal(i, err)
			}
			b := make([]byte, 10)
			if n, err := resp.Body.Read(b); n == 0 || err != nil {
				t.Fatal(n, err)
			}
			for range 2 {
				if err := resp.Body.Close(); err != nil {
					t.Error(err)
				}
				if n, err := resp.Body.Read(b); n != 0 || !errors.Is(err, http.ErrBodyReadAfterClose) {
					t.Errorf("%s: after Close %d bytes, %v", path, n, err)
				}
			}
		}
		s.want(t, "in the end", 3, 1)
	})
}

// Close wakes who reads.
func TestDirectCloseWhileReading(t *testing.T) {
	direct(t, func(c net.Conn, r *http.Request) bool {
		if r.URL.Path == "/" {
			return say(c, well)
		}
		return say(c, "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nwell")
	}, func(t *testing.T, s *scripted, c *http.Client) {
		resp, err := c.Do(newRequest(t, http.MethodGet, "http://payments/half", nil))
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() {
			_, err := io.ReadAll(resp.Body)
			done <- err
		}()
		synctest.Wait()
		_ = resp.Body.Close()
		if err := <-done; err == nil {
			t.Error("the body ended well")
		}
		get(t, c, "http://payments/")
		s.want(t, "in the end", 2, 1)
	})
}

// The hooks of package httptrace are called as by http.Transport, and one that panics takes nothing but its own connection with it.
func TestDirectHooks(t *testing.T) {
	direct(t, func(c net.Conn, _ *http.Request) bool {
		return say(c, "HTTP/1.1 103 Early Hints\r\n\r\n"+well)
	}, func(t *testing.T, s *scripted, c *http.Client) {
		var called []string
		panics := ""
		hook := func(name string) {
			if called = append(called, name); name == panics {
				panic(name)
			}
		}
		trace := &httptrace.ClientTrace{
			GotConn:              func(i httptrace.GotConnInfo) { hook(fmt.Sprint("GotConn ", i.Reused)) },
			WroteHeaders:         func() { hook("WroteHeaders") },
			WroteRequest:         func(i httptrace.WroteRequestInfo) { hook(fmt.Sprint("WroteRequest ", i.Err)) },
			GotFirstResponseByte: func() { hook("GotFirstResponseByte") },
			Got1xxResponse:       func(code int, _ textproto.MIMEHeader) error { hook(fmt.Sprint(code)); return nil },
			PutIdleConn:          func(err error) { hook(fmt.Sprint("PutIdleConn ", err)) },
		}
		request := func() (err error) {
			defer func() {
				if r := recover(); r != nil {
					err = fmt.Errorf("panic: %v", r)
				}
			}()
			called = nil
			req := newRequest(t, http.MethodGet, "http://payments/", nil)
			_, err = do(c, req.WithContext(httptrace.WithClientTrace(req.Context(), trace)))
			return err
		}
		want := []string{"GotConn false", "WroteHeaders", "WroteRequest <nil>", "GotFirstResponseByte", "103", "PutIdleConn <nil>"}
		if err := request(); err != nil || !reflect.DeepEqual(called, want) {
			t.Errorf("%q, %v; want %q", called, err, want)
		}
		want[0] = "GotConn true"
		for i, name := range want {
			panics = name
			if err := request(); err == nil || err.Error() != "panic: "+name {
				t.Errorf("when %s panics: %v", name, err)
			}
			panics = ""
			if err := request(); err != nil {
				t.Error(err)
			}
			s.want(t, "after "+name, int32(min(i, 4))+1, 1)
		}
	})
}
