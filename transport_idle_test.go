package mesh_test

import (
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh/meshtest"
)

// Of several idle connections over HTTP/1.1 the one that was used last is used next, so that the others can grow old.
func TestIdleConnectionsAreAStack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.New(t, meshtest.Allow("payments", "orders"))
		hold := make(chan struct{})
		a := serveCounted(t, n, 0, func(_ http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/" {
				<-hold
			}
		}, "http/1.1")
		c := n.Join(t, "orders").HTTPClient()
		wait := hang(t, c, 10)
		a.wantOpen(t, "ten requests", 10)
		close(hold)
		wait()
		for range 5 {
			pass(30 * time.Second)
			get(t, c, "http://payments/next")
		}
		a.wantOpen(t, "after 150 s of one request at a time", 1)
	})
}

// Connections that the server has closed while they were idle are passed over, however many they are.
func TestIdleConnectionsThatTheServerClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.New(t, meshtest.Allow("payments", "orders"))
		hold := make(chan struct{})
		a := serveCounted(t, n, 0, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/" {
				w.Header().Set("Connection", "close")
				<-hold
			}
		}, "http/1.1")
		c := n.Join(t, "orders").HTTPClient()
		wait := hang(t, c, 10)
		close(hold)
		wait()
		a.wantOpen(t, "after ten requests", 0)
		for range 3 {
			resp, err := c.Do(newRequest(t, http.MethodPost, "http://payments/next", nil)) // it could not be sent twice
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
		}
		a.wantOpen(t, "after three more", 1)
	})
}

// A connection on which half of a response is left is not used again.
func TestHalfReadResponseSpoilsItsConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.New(t, meshtest.Allow("payments", "orders"))
		a := serveCounted(t, n, 0, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/endless" {
				for _, err := w.Write(make([]byte, 1<<10)); err == nil; {
					_, err = w.Write(make([]byte, 1<<10))
				}
				return
			}
			_, _ = io.WriteString(w, "well")
		}, "http/1.1")
		c := n.Join(t, "orders").HTTPClient()
		for range 3 {
			resp, err := c.Do(newRequest(t, http.MethodGet, "http://payments/endless", nil))
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if got, err := tryGet(t.Context(), c, "http://payments/"); err != nil || got != "well" {
				t.Fatalf("%q, %v", got, err)
			}
		}
		a.wantOpen(t, "in the end", 1)
	})
}
