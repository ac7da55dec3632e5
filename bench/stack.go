package main

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// The services that a server process offers, each on a port of its own.
const (
	svcRaw   = "raw"
	svcHTTP1 = "http1"
	svcHTTP2 = "http2"
	svcWeb   = "web" // both of them, for the client to choose
	svcGRPC  = "grpc"
	svcCold  = "cold" // raw again, for a contender that reuses connections otherwise
)

// alpn is what each service negotiates where there is TLS.
func alpn(service string) []string {
	switch service {
	case svcHTTP1:
		return []string{"http/1.1"}
	case svcHTTP2, svcGRPC:
		return []string{"h2"}
	case svcWeb:
		return []string{"h2", "http/1.1"}
	}
	return nil
}

// A serverEnd is the server's half of a contender.
type serverEnd struct {
	listen func(service string) (net.Listener, error)
	// wrap adds what decides requests; nil adds nothing.
	wrap func(service string, h http.Handler) http.Handler
	grpc func() *grpc.Server
	// change switches the rule that admits the guest on and off; nil where there are no rules.
	change func(on bool) error
}

// A clientEnd is the client's half. Addresses are by service.
type clientEnd struct {
	dial func(ctx context.Context) (net.Conn, error)
	// cold is dial with a handshake of its own every time.
	cold func(ctx context.Context) (net.Conn, error)
	// http returns a client, and the URL in front of a path.
	http func(service string) (*http.Client, string)
	grpc func() (*grpc.ClientConn, error)
}

// shared makes all workers, of all rounds, use the same clients and channel. Calls of svcWeb go to web instead.
func (c clientEnd) shared(web string) clientEnd {
	type caller struct {
		client *http.Client
		url    string
	}
	callers := make(map[string]caller)
	for _, service := range []string{svcHTTP1, svcHTTP2, svcWeb} {
		client, url := c.http(service)
		callers[service] = caller{client, url}
	}
	callers[svcWeb] = callers[web]
	return clientEnd{
		dial: c.dial, cold: c.cold,
		http: func(service string) (*http.Client, string) { return callers[service].client, callers[service].url },
		grpc: sync.OnceValues(c.grpc),
	}
}

// secure is what differs between plaintext, crypto/tls and go-spiffe; nil configs are plaintext.
type secure struct {
	server, client func(protocols []string) *tls.Config
}

func plaintext() secure {
	none := func([]string) *tls.Config { return nil }
	return secure{none, none}
}

func cryptoTLS(m material) secure {
	config := func(protocols []string) *tls.Config { return m.tlsConfig(protocols...) }
	return secure{config, config}
}

func goSPIFFE(m material) secure {
	peer := func(name string) tlsconfig.Authorizer {
		return tlsconfig.AuthorizeID(spiffeid.RequireFromPath(spiffeid.RequireTrustDomainFromString(trustDomain), "/"+name))
	}
	return secure{
		server: func(protocols []string) *tls.Config {
			c := tlsconfig.MTLSServerConfig(m.svid, m.bundle, peer(clientName))
			c.NextProtos = protocols
			return c
		},
		client: func(protocols []string) *tls.Config {
			c := tlsconfig.MTLSClientConfig(m.svid, m.bundle, peer(serverName))
			c.NextProtos = protocols
			return c
		},
	}
}

func (s secure) serverEnd() serverEnd {
	return serverEnd{
		listen: func(service string) (net.Listener, error) {
			ln, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // a local address
			if config := s.server(alpn(service)); err == nil && config != nil && service != svcGRPC {
				return tls.NewListener(ln, config), nil
			}
			return ln, err
		},
		grpc: func() *grpc.Server {
			if config := s.server(alpn(svcGRPC)); config != nil {
				return grpc.NewServer(grpc.Creds(credentials.NewTLS(config)))
			}
			return grpc.NewServer()
		},
	}
}

func (s secure) clientEnd(addrs map[string]string) clientEnd {
	raw := s.client(nil)
	dial := func(ctx context.Context) (net.Conn, error) {
		if raw == nil {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", addrs[svcRaw])
		}
		d := tls.Dialer{Config: raw}
		return d.DialContext(ctx, "tcp", addrs[svcRaw])
	}
	return clientEnd{
		dial: dial, cold: dial,
		http: func(service string) (*http.Client, string) {
			t := &http.Transport{MaxIdleConnsPerHost: maxInFlight, DisableCompression: true, Protocols: new(http.Protocols)}
			t.TLSClientConfig = s.client(alpn(service))
			scheme := "https"
			t.Protocols.SetHTTP1(service != svcHTTP2)
			if t.TLSClientConfig == nil {
				scheme = "http"
				t.Protocols.SetUnencryptedHTTP2(service == svcHTTP2)
			} else {
				t.Protocols.SetHTTP2(service != svcHTTP1)
			}
			return &http.Client{Transport: t}, scheme + "://" + addrs[service]
		},
		grpc: func() (*grpc.ClientConn, error) {
			creds := insecure.NewCredentials()
			if config := s.client(alpn(svcGRPC)); config != nil {
				creds = credentials.NewTLS(config)
			}
			return grpc.NewClient("passthrough:///"+addrs[svcGRPC], grpc.WithTransportCredentials(creds))
		},
	}
}
