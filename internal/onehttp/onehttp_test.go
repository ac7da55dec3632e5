package onehttp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh/internal/memnet"
	"github.com/intramesh/mesh/internal/onehttp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func dial(t *testing.T, addr string) *onehttp.Conn {
	t.Helper()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	oc := onehttp.NewConn(c)
	t.Cleanup(func() { oc.Close() })
	return oc
}

func to(path string) *url.URL { return &url.URL{Scheme: "http", Host: "peer", Path: path} }

func TestDo(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		switch r.URL.Path {
		case "/none":
			w.WriteHeader(http.StatusNoContent)
		case "/large":
			_, _ = io.WriteString(w, strings.Repeat("x", 1001))
		case "/redirect":
			http.Redirect(w, r, "/", http.StatusFound)
		case "/slow":
			<-r.Context().Done()
		case "/head":
			fmt.Fprintf(w, "%s %d %s %s ", r.Host, r.ContentLength, r.Header.Get("Accept"), r.Header.Get("Content-Type"))
		case "/close":
			w.Header().Set("Connection", "close")
		case "/early":
			w.WriteHeader(http.StatusEarlyHints)
		}
		_, _ = io.WriteString(w, r.Method+" "+string(b))
	}))
	defer srv.Close()
	c := dial(t, srv.Listener.Addr().String())
	for _, x := range []struct {
		method, path string
		send         []byte
		status       int
		body         string
		reuse        bool
	}{
		{"GET", "/", nil, 200, "GET ", true},
		{"POST", "/", []byte(`{"hello":1}`), 200, `POST {"hello":1}`, true},
		{"GET", "/head", nil, 200, "peer 0 application/json  GET ", true},
		{"POST", "/head", nil, 200, "peer 0 application/json  POST ", true},
		{"POST", "/head", []byte("7"), 200, "peer 1 application/json application/json POST 7", true},
		{"GET", "/a b\r\nHost: other\r\n", nil, 200, "GET ", true},
		{"GET", "none", nil, 204, "", true},
		{"GET", "/none", nil, 204, "", true},
		{"GET", "/early", nil, 200, "GET ", true},
		{"GET", "/redirect", nil, 302, "<a href=\"/\">Found</a>.\n\nGET ", true},
		{"GET", "/close", nil, 200, "GET ", false},
	} {
		status, body, reuse, err := c.Do(t.Context(), x.method, to(x.path), x.send, 1000)
		if err != nil || status != x.status || string(body) != x.body || reuse != x.reuse {
			t.Errorf("%s: %d %q %v %v", x.path, status, body, reuse, err)
		}
	}
	if _, _, _, err := dial(t, srv.Listener.Addr().String()).Do(t.Context(), http.MethodGet, to("/large"), nil, 1000); !errors.Is(err, onehttp.ErrTooLarge) {
		t.Errorf("a large answer: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, _, err := dial(t, srv.Listener.Addr().String()).Do(ctx, http.MethodGet, to("/slow"), nil, 1000); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a slow answer: %v", err)
	}
}

func TestHeadersWithoutEnd(t *testing.T) {
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	done := make(chan int)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		n := 0
		for err == nil {
			var k int
			k, err = io.WriteString(c, "X: "+strings.Repeat("y", 4000)+"\r\n")
			n += k
		}
		done <- n
	}()
	c := dial(t, ln.Addr().String())
	if _, _, _, err := c.Do(t.Context(), http.MethodGet, to("/"), nil, 1000); err == nil {
		t.Error("an endless header was taken for an answer")
	}
	c.Close()
	if n := <-done; n > 64<<20 {
		t.Errorf("%d bytes were read", n)
	}
}

func TestServe(t *testing.T) {
	for _, x := range []struct {
		status int
		body   string
	}{{200, "rules"}, {204, ""}, {404, "no"}} {
		a, b := net.Pipe()
		go func() {
			defer b.Close()
			_ = onehttp.Serve(b, func(_ string, u *url.URL) (int, []byte) {
				if u.Path != "/v1/x" {
					return 500, nil
				}
				return x.status, []byte(x.body)
			})
		}()
		c := onehttp.NewConn(a)
		status, body, reuse, err := c.Do(t.Context(), http.MethodGet, to("/v1/x"), nil, 100)
		if err != nil || status != x.status || string(body) != x.body || reuse {
			t.Errorf("got %d %q %v %v, want %d %q", status, body, reuse, err, x.status, x.body)
		}
		c.Close()
	}
}

// A server that has stopped is noticed by its silence; one that says from time to time that it is there may take as long as it likes.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const silence = time.Second
		host := memnet.New().Host(netip.MustParseAddr("10.0.0.1"))
		ln, err := host.Listen(t.Context(), "tcp", ":0")
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for range 5 {
				<-time.After(silence - time.Millisecond)
				w.WriteHeader(http.StatusProcessing)
			}
			if r.URL.Path == "/stops" {
				<-r.Context().Done()
			}
		})}
		served := make(chan error, 1)
		go func() { served <- srv.Serve(ln) }()
		for path, want := range map[string]error{"/": nil, "/stops": os.ErrDeadlineExceeded} {
			inner, err := host.DialContext(t.Context(), "tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			c := onehttp.NewConn(inner)
			c.Silence = silence
			_, _, reuse, err := c.Do(t.Context(), http.MethodGet, to(path), nil, 10)
			_ = c.Close()
			if !errors.Is(err, want) || reuse != (want == nil) {
				t.Errorf("%s: %v, reuse %v", path, err, reuse)
			}
		}
		_ = srv.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}
