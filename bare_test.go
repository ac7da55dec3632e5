package mesh_test

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/identity"
	"github.com/intramesh/mesh/internal/testca"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// explains reports whether there is a word by which a denial is explained.
func explains(s string) bool {
	for _, w := range []string{"policy", `"rule"`, "rules v", "version", "reason", "no rule allows"} {
		if strings.Contains(s, w) {
			return true
		}
	}
	return false
}

// A callee whose operator does not want denials explained says no more than that it is one: on a raw connection, to an HTTP client
// (its request or its whole connection refused) and to a gRPC one.
func TestBareDenial(t *testing.T) {
	for _, connection := range []bool{false, true} {
		w := newWorld(t, rule{from: "orders", to: "payments", path: "/open"})
		w.rules.bare = true
		if connection {
			w.rules.set()
		}
		payments, orders := w.join("payments"), w.join("orders")
		web := w.serveHTTP(payments, func(http.ResponseWriter, *http.Request) {}, "web")
		w.echo(w.listen(payments))
		c, err := orders.Dial(t.Context(), "tcp", "payments")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		err = ping(c)
		d, ok := errors.AsType[*mesh.DeniedError](err)
		if !ok || d.Policy != "" || d.Rule != -1 || d.Version != 0 || d.Reason != "" || d.Destination != "payments" || explains(d.Error()) {
			t.Errorf("raw: %v", err)
		}
		for _, h2 := range []bool{false, true} {
			resp, body := w.body(h2, web.Addr().String(), "/secret")
			var problem map[string]any
			if err := json.Unmarshal([]byte(body), &problem); err != nil || len(problem) != 4 || resp.Header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("h2 %v: %s, %v", h2, body, err)
			}
			d, ok := mesh.DeniedFromResponse(resp)
			if header := resp.Header.Get("Mesh-Denied"); !ok || d.Rule != -1 || explains(header) || explains(d.Error()) || explains(body) {
				t.Errorf("h2 %v: %s: %+v\n%s", h2, header, d, body)
			}
		}
		resp := w.call(true, http.MethodPost, web.Addr().String(), "/pay.v1.Payments/Charge", "application/grpc")
		if h := resp.Header; h.Get("Grpc-Status") != "7" || h["Grpc-Status-Details-Bin"] != nil || h["Mesh-Denied"] != nil || explains(h.Get("Grpc-Message")) {
			t.Errorf("gRPC: %v", h)
		}
	}
}

// body makes one request as orders and returns the response and its body.
func (w *world) body(h2 bool, addr, path string) (*http.Response, string) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, "https://"+addr+path, http.NoBody)
	if err != nil {
		w.t.Fatal(err)
	}
	resp, err := w.bareHTTP(h2).Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp, string(body)
}

// Whoever is of another trust domain is told nothing, though its own would be.
func TestStrangerIsToldNothing(t *testing.T) {
	w := newWorld(t)
	other, err := testca.New(spiffeid.RequireTrustDomainFromString("other.example"))
	if err != nil {
		t.Fatal(err)
	}
	ours, err := w.ca.SVID("payments")
	if err != nil {
		t.Fatal(err)
	}
	payments := w.join("payments", func(c *mesh.Config) { c.Identity = identity.Static(ours, w.ca.Bundle(), other.Bundle()) })
	web := w.serveHTTP(payments, func(http.ResponseWriter, *http.Request) {})
	theirs, err := other.SVID("orders")
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, Certificates: []tls.Certificate{testca.Certificate(theirs)},
	}}, Timeout: 10 * time.Second}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+web.Addr().String()+"/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusForbidden || explains(string(body)) || explains(resp.Header.Get("Mesh-Denied")) {
		t.Errorf("%d %v: %s, %v", resp.StatusCode, resp.Header, body, err)
	}
}
