package mesh_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/intramesh/mesh"
)

// A rule change ends the requests that it forbids, and leaves the others on the same connection alone.
func TestRuleChangeCutsOpenRequests(t *testing.T) {
	for _, h2 := range []bool{true, false} {
		t.Run(fmt.Sprintf("h2=%v", h2), func(t *testing.T) {
			w := newWorld(t, rule{"orders", "payments", "/a"}, rule{"orders", "payments", "/b"})
			payments := w.join("payments")
			cause := make(chan error, 2)
			ln := w.serveHTTP(payments, func(rw http.ResponseWriter, r *http.Request) {
				rw.WriteHeader(http.StatusOK)
				_ = http.NewResponseController(rw).Flush()
				if r.URL.Path == "/a" {
					<-r.Context().Done()
					cause <- context.Cause(r.Context())
					return
				}
				for i := range 100 { // outlives the change
					if _, err := fmt.Fprintln(rw, i); err != nil {
						return
					}
					_ = http.NewResponseController(rw).Flush()
					select {
					case <-time.After(20 * time.Millisecond):
					case <-r.Context().Done():
						return
					}
				}
			})
			c := w.bareHTTP(h2)
			open := func(path string) io.Reader {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+ln.Addr().String()+path, http.NoBody)
				if err != nil {
					t.Fatal(err)
				}
				resp, err := c.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { resp.Body.Close() })
				return resp.Body
			}
			a, b := open("/a"), open("/b")
			w.rules.set(rule{"orders", "payments", "/b"})
			if _, err := io.ReadAll(a); err == nil {
				t.Error("the forbidden request ended without an error")
			}
			if d := (*mesh.DeniedError)(nil); !errors.As(<-cause, &d) || d.Version != 2 {
				t.Errorf("the handler's context ended with %v", d)
			}
			if got, err := io.ReadAll(b); err != nil || len(got) < 290 {
				t.Errorf("the allowed request: %d bytes, %v", len(got), err)
			}
			if n := payments.Stats().Cut; n != 1 {
				t.Errorf("Stats().Cut = %d, want 1", n)
			}
		})
	}
}

func TestRuleChangeCutsUpgradedConnection(t *testing.T) {
	w := newWorld(t, rule{"orders", "payments", "/ws"}, rule{"orders", "payments", "/other"})
	payments := w.join("payments")
	ln := w.serveHTTP(payments, func(rw http.ResponseWriter, _ *http.Request) {
		c, buf, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = buf.WriteString("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
		_ = buf.Flush()
		go func() { // the handler returns before the connection is done
			defer c.Close()
			_, _ = io.Copy(c, buf)
		}()
	})
	conf := w.bareClient()
	conf.NextProtos = []string{"http/1.1"}
	c, err := dialTLS(t, ln.Addr().String(), conf)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "GET /ws HTTP/1.1\r\nHost: payments\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(resp, err)
	}
	fmt.Fprintln(c, "ping")
	if line, err := br.ReadString('\n'); line != "ping\n" {
		t.Fatal(line, err)
	}
	w.rules.set(rule{"orders", "payments", "/other"})
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	_, err = br.ReadString('\n')
	if ne, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err); err == nil || ok && ne.Timeout() {
		t.Errorf("the upgraded connection outlived its rule: %v", err)
	}
}
