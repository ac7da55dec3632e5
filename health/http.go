package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/intramesh/mesh"
)

const (
	// maxHeader and maxBody bound what is read of an answer.
	maxHeader = 64 << 10
	maxBody   = 64 << 10
)

// HTTP returns a check that gets an http or https URL, without a proxy and on a new connection each time. It succeeds with a status of
// 200 to 299; a redirection is not followed.
func HTTP(rawURL string) (Check, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, fmt.Errorf("health: %w", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("health: %q: want an http or https URL with a host", u.Redacted())
	}
	t := &http.Transport{DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxHeader}
	return func(ctx context.Context) error { return get(ctx, t, u, u.Host) }, nil
}

// get makes a request, and returns an error unless the answer says well. A mesh server's denial is a [*mesh.DeniedError].
func get(ctx context.Context, t *http.Transport, u *url.URL, host string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), http.NoBody)
	if err != nil {
		return err
	}
	req.Host = host
	req.Header.Set("User-Agent", "intramesh-health")
	resp, err := t.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.CopyN(io.Discard, resp.Body, maxBody); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if d, ok := mesh.DeniedFromResponse(resp); ok {
		return d
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("%s: %s", u.Redacted(), resp.Status)
	}
	return nil
}

// Get asks instances with GET requests for a path, which the rules of the service have to allow. Any status of 200 to 299 is well.
// The connection to each is kept from one check to the next.
func Get(path string) Prober {
	return func(m *mesh.Mesh, address string) (func(netip.AddrPort) Probe, error) {
		u, err := url.Parse(path)
		if err != nil || u.IsAbs() || u.Host != "" || !strings.HasPrefix(u.Path, "/") {
			return nil, fmt.Errorf("health: %q: want the path of a URL", path)
		}
		service, _, err := mesh.ParseAddress(address)
		if err != nil {
			return nil, err
		}
		host := strings.ReplaceAll(service, "/", ".")
		return func(addr netip.AddrPort) Probe {
			to := *u
			to.Scheme, to.Host = "https", addr.String()
			return &getter{url: &to, host: host, transport: &http.Transport{
				DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
					return m.DialEndpoint(ctx, address, addr, "http/1.1")
				},
				DisableCompression: true, MaxResponseHeaderBytes: maxHeader, IdleConnTimeout: time.Minute,
			}}
		}, nil
	}
}

type getter struct {
	url       *url.URL
	host      string
	transport *http.Transport
}

func (g *getter) Check(ctx context.Context) error { return get(ctx, g.transport, g.url, g.host) }
func (g *getter) Close()                          { g.transport.CloseIdleConnections() }
