package mesh_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/meshtest"
)

func TestSetReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.New(t, meshtest.Allow("payments", "orders"))
		payments, orders := n.Join(t, "payments"), n.Join(t, "orders")
		check := func(want discovery.State, status int) {
			t.Helper()
			eps := orders.Discovery().Lookup("payments").Endpoints
			if state, _ := payments.State(); state != want || len(eps) != 1 || eps[0].State != want {
				t.Errorf("it is %v, announced are %+v, want %v", state, eps, want)
			}
			w := httptest.NewRecorder()
			payments.HealthHandler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody))
			if w.Code != status || w.Body.String() != want.String()+"\n" {
				t.Errorf("the check says %d %q", w.Code, w.Body)
			}
		}
		payments.SetReady(false)
		ln, err := payments.Listen(t.Context(), "tcp", ":0")
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				wg.Go(func() {
					_, _ = io.Copy(io.Discard, c)
					_ = c.Close()
				})
			}
		})
		check(discovery.Starting, 503)
		_, err = orders.Dial(t.Context(), "tcp", "payments")
		if e, ok := errors.AsType[*mesh.NoEndpointsError](err); !ok || e.Starting != 1 || !errors.Is(err, mesh.ErrNoEndpoints) {
			t.Errorf("dialing what starts: %v", err)
		}
		_, changed := payments.State()
		payments.SetReady(true)
		<-changed
		check(discovery.Ready, 200)
		c, err := orders.Dial(t.Context(), "tcp", "payments")
		if err != nil {
			t.Fatal(err)
		}
		_, changed = payments.State()
		payments.SetReady(true) // nothing new
		select {
		case <-changed:
			t.Error("changed to the same")
		default:
		}
		payments.SetReady(false)
		check(discovery.Starting, 503)
		if _, err := c.Write([]byte("x")); err != nil {
			t.Errorf("an open connection: %v", err)
		}
		_ = c.Close()
		_, changed = payments.State()
		go func() { _ = payments.Shutdown(t.Context()) }()
		<-changed
		payments.SetReady(true) // too late
		synctest.Wait()
		check(discovery.Draining, 503)
		<-payments.Done()
	})
}
