package main_test

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/intramesh/mesh/identity"
	"github.com/intramesh/mesh/policy"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// TestReconnect: when the only control plane restarts, all members are back with the current rules soon, and none hammers it. Each
// of them is a member's real follower of rules ([policy.Syncer]) on a connection of its own; what else a member does is left out,
// so that a thousand fit into one process.
func TestReconnect(t *testing.T) {
	members := nightly(200, 1000)
	dir := newPlane(t)
	p := serve(t, dir)
	c := p.client(t)
	must(t, dir, rules, "policy", "apply", "-f", "-")
	b := token(t, c, "fleet")
	ca, err := identity.NewStepCA(t.Context(), identity.StepCAConfig{
		URL: b.CA, RootFingerprint: b.RootFingerprint, Token: b.Token, ID: spiffeid.RequireFromString("spiffe://example.test/fleet"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ca.Close() })
	svid, err := ca.GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	cert := tls.Certificate{PrivateKey: svid.PrivateKey, Leaf: svid.Certificates[0]}
	for _, one := range svid.Certificates {
		cert.Certificate = append(cert.Certificate, one.Raw)
	}
	var attempts atomic.Int64
	for i := range members {
		tr := &http.Transport{
			TLSClientConfig: &tls.Config{
				InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, // rules are trusted for their signature
				GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil },
			},
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				attempts.Add(1)
				return new(net.Dialer).DialContext(ctx, network, addr)
			},
			MaxConnsPerHost: 1,
		}
		follow(t, &http.Client{Transport: tr}, b.Control[0], b.BundleKeys, fmt.Sprint("m", i))
		t.Cleanup(tr.CloseIdleConnections)
	}
	current := func(ctx context.Context) error {
		s, err := c.Status(ctx)
		if err == nil && (s.Members != members || !s.Done()) {
			err = fmt.Errorf("%d of %d, %d current", s.Members, members, s.Current)
		}
		return err
	}
	within(t, "all are there", current)

	p.kill(t)
	down := time.Now()
	pause(t.Context(), nightly(2*time.Second, 5*time.Second))
	gone := attempts.Swap(0)
	// Doubling from 250 ms, at least half of it each time: no more than this many tries fit into the time.
	most := 0
	for wait, sum := 125*time.Millisecond, time.Duration(0); sum < time.Since(down); wait *= 2 {
		sum += wait
		most++
	}
	if gone > int64(members*(most+1)) {
		t.Errorf("%d tries of %d members in %v, want at most %d each", gone, members, time.Since(down), most+1)
	}
	serve(t, dir)
	up := time.Now()
	within(t, "all are back", current)
	t.Logf("%d members: %d tries while it was away for %v; all back %v after it is up, by %d connections",
		members, gone, time.Since(down)-time.Since(up), time.Since(up).Round(time.Millisecond), attempts.Load())
	if n := attempts.Load(); n > int64(4*members) {
		t.Errorf("%d connections for %d members", n, members)
	}
	out := must(t, dir, "", "status")
	t.Log(out)
}

func follow(t *testing.T, client *http.Client, control string, keys [][]byte, instance string) {
	t.Helper()
	var signers []ed25519.PublicKey
	for _, k := range keys {
		signers = append(signers, k)
	}
	s, err := policy.NewSyncer(policy.SyncConfig{
		TrustDomain: spiffeid.RequireTrustDomainFromString("example.test"), Keys: signers,
		Fetch: func(ctx context.Context, r policy.FetchRequest) ([]byte, error) {
			q := url.Values{"after": {fmt.Sprint(r.After)}, "wait": {"50s"}, "instance": {instance}}
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+control+"/v1/bundle?"+q.Encode(), http.NoBody)
			if err != nil {
				return nil, err
			}
			resp, err := client.Do(req)
			if err != nil {
				return nil, err
			}
			defer resp.Body.Close()
			switch resp.StatusCode {
			case http.StatusNoContent:
				return nil, nil
			case http.StatusOK:
				return io.ReadAll(resp.Body)
			}
			return nil, fmt.Errorf("the answer is %s", resp.Status)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { _ = s.Close() })
}
