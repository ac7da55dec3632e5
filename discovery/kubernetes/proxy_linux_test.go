package kubernetes_test

import (
	"crypto/tls"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"sync"
	"testing"

	"github.com/intramesh/mesh/discovery/kubernetes"
)

// A proxy stands before kube-apiserver: it counts requests, holds them up, changes them, and breaks them off.
type proxy struct {
	*httptest.Server
	ca string

	mu    sync.Mutex
	lists []string // queries
	watch []string
	edit  func(w http.ResponseWriter, r *http.Request) http.ResponseWriter // returns where the answer goes
	drop  chan struct{}
}

func (c *cluster) proxy(t *testing.T) *proxy {
	t.Helper()
	target, err := url.Parse(c.url)
	if err != nil {
		t.Fatal(err)
	}
	rp := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }, FlushInterval: -1, Transport: c.admin.Transport,
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	p := &proxy{ca: t.TempDir() + "/ca.crt", drop: make(chan struct{})}
	p.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		if r.FormValue("watch") == "" {
			p.lists = append(p.lists, r.URL.RawQuery)
		} else {
			p.watch = append(p.watch, r.URL.RawQuery)
		}
		edit, drop := p.edit, p.drop
		p.mu.Unlock()
		if edit != nil {
			w = edit(w, r)
		}
		done := make(chan struct{})
		ctx := r.Context()
		go func() {
			select {
			case <-drop:
				p.CloseClientConnections()
			case <-ctx.Done():
			case <-done:
			}
		}()
		defer close(done)
		rp.ServeHTTP(w, r)
	}))
	p.EnableHTTP2 = true
	p.TLS = &tls.Config{MinVersion: tls.VersionTLS13}
	p.StartTLS()
	t.Cleanup(func() {
		p.CloseClientConnections()
		p.Close()
	})
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw})
	if err := os.WriteFile(p.ca, ca, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// cut breaks all requests that are under way.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.drop)
	p.drop = make(chan struct{})
}

func (p *proxy) set(edit func(w http.ResponseWriter, r *http.Request) http.ResponseWriter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.edit = edit
}

// asked returns how many lists, more pages and watches were asked for.
func (p *proxy) asked() (lists, pages, watches int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, q := range p.lists {
		if v, _ := url.ParseQuery(q); v.Has("continue") {
			pages++
		} else {
			lists++
		}
	}
	return lists, pages, len(p.watch)
}

func (p *proxy) config(c *cluster) kubernetes.Config {
	cfg := c.config()
	cfg.URL, cfg.CAFile = p.URL, p.ca
	return cfg
}

// away refuses all connections to the server, as far as the source can tell.
func away(http.ResponseWriter, *http.Request) http.ResponseWriter { panic(http.ErrAbortHandler) }

// stalled is where an answer goes that nobody reads until it is released.
type stalled struct {
	http.ResponseWriter
	release <-chan struct{}
}

func (s *stalled) Unwrap() http.ResponseWriter { return s.ResponseWriter }

func (s *stalled) Write(b []byte) (int, error) {
	<-s.release
	return s.ResponseWriter.Write(b)
}
