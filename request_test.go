package mesh_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/synctest"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/meshtest"
)

const allowProd = `{"apiVersion": "mesh/v1", "kind": "Authorization", "metadata": {"name": "prod"},
	"spec": {"service": "payments", "action": "allow", "rules": [
		{"from": [{"services": ["orders"]}], "when": [{"key": "request.header.x-env", "values": ["prod"]}]}]}}`

// A handler may change its headers: what rules see of a request under way is what came in. Where no rule looked at them, they are not
// kept, and unavailable to rules that come to: such a request ends.
func TestRulesSeeTheHeadersThatCameIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.New(t, allowProd)
		ended := make(chan error, 1)
		serveCounted(t, n, 0, func(w http.ResponseWriter, r *http.Request) {
			r.Header.Set("X-Env", "test")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			ended <- context.Cause(r.Context())
		})
		c := n.Join(t, "orders").HTTPClient()
		open := func(env string) *http.Response {
			req := newRequest(t, http.MethodGet, "http://payments/", nil)
			req.Header.Set("X-Env", env)
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { resp.Body.Close() })
			return resp
		}
		if resp := open("test"); resp.StatusCode != http.StatusForbidden {
			t.Errorf("another header: %s", resp.Status)
		}
		kept := open("prod")
		n.SetRules(t, allowProd) // the same, decided anew
		synctest.Wait()
		if len(ended) > 0 {
			t.Error("the request was decided by what its handler made of the headers")
		}
		n.SetRules(t, meshtest.Allow("payments", "orders")) // from here on, nobody looks
		synctest.Wait()
		if len(ended) > 0 {
			t.Error("the request ended although all are allowed")
		}
		kept.Body.Close()
		if err := <-ended; errors.As(err, new(*mesh.DeniedError)) {
			t.Error(err)
		}

		open("prod")
		n.SetRules(t, allowProd)
		if d := (*mesh.DeniedError)(nil); !errors.As(<-ended, &d) {
			t.Error("a request whose headers are not known passes a rule that looks at them")
		}
		open("prod").Body.Close()
		if err := <-ended; errors.As(err, new(*mesh.DeniedError)) {
			t.Error(err)
		}
	})
}

// The context of a request ends with it, for those who wait for that and for those who only look.
func TestRequestContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.New(t, meshtest.Allow("payments", "orders"))
		contexts := make(chan context.Context, 3)
		serveCounted(t, n, 0, func(_ http.ResponseWriter, r *http.Request) {
			ctx := r.Context()
			if err := ctx.Err(); err != nil {
				t.Error(err)
			}
			switch r.URL.Path {
			case "/waits":
				child, cancel := context.WithCancelCause(ctx)
				context.AfterFunc(child, func() { cancel(nil) })
				contexts <- child
			case "/waits/for-the-client":
				contexts <- context.WithoutCancel(ctx)
				<-ctx.Done()
			}
			contexts <- ctx
		})
		c := n.Join(t, "orders").HTTPClient()
		get(t, c, "http://payments/looks")
		get(t, c, "http://payments/waits")
		ctx, cancel := context.WithCancel(t.Context())
		req := newRequest(t, http.MethodGet, "http://payments/waits/for-the-client", nil).WithContext(ctx)
		go func() {
			if p, ok := mesh.PeerFromContext(<-contexts); !ok || p.Service() != "orders" {
				t.Errorf("the first request's peer: %v, %v", p, ok)
			}
			for range 2 {
				c := <-contexts
				<-c.Done()
				if c.Err() == nil || context.Cause(c) == nil {
					t.Error("a context without an error after its end")
				}
			}
			<-contexts
			cancel()
			<-(<-contexts).Done()
		}()
		if resp, err := c.Do(req); err == nil {
			_, err = io.ReadAll(resp.Body)
			resp.Body.Close()
			if err == nil {
				t.Error("a request that was given up succeeded")
			}
		}
		synctest.Wait()
	})
}
