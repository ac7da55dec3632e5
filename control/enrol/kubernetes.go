package enrol

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/intramesh/mesh/policy"
	"github.com/intramesh/mesh/policy/jwt"
)

// Kubernetes lets the service accounts of one cluster enrol, by projected tokens: see "ServiceAccount token
// volume projection" in the Kubernetes documentation. A token must be signed by the cluster's issuer, be for our
// audience, and not have expired. While the keys can't be fetched, nobody new gets in; keys that were fetched once
// count for a day.
type Kubernetes struct {
	// Issuer is the cluster's, as in its tokens: "https://kubernetes.default.svc.cluster.local".
	Issuer string `yaml:"issuer"`
	// Audience must be in the token; it is the "audience" of the projected volume. It should be no other system's.
	Audience string `yaml:"audience"`
	// JWKSURL is where the cluster's keys are, https only, or JWKSFile has them; it is read at each use.
	JWKSURL  string `yaml:"jwks_url,omitempty"`
	JWKSFile string `yaml:"jwks_file,omitempty"`
	// CAFile has the authorities that JWKSURL's server is verified by; empty means the system's.
	CAFile string `yaml:"ca_file,omitempty"`
	// BearerFile has a token to show at JWKSURL, as the API server wants. It is read at each use.
	BearerFile string `yaml:"bearer_file,omitempty"`
	// Accounts say which service accounts may be which services.
	Accounts []Account `yaml:"accounts"`
}

// An Account maps service accounts to a service.
type Account struct {
	// Namespace and Name are those of service accounts, or patterns with a "*" at one end.
	Namespace string `yaml:"namespace"`
	Name      string `yaml:"name"`
	// Service is a service's name. In it {namespace} and {name} stand for the account's.
	Service string `yaml:"service"`
}

// cluster is Kubernetes at work.
type cluster struct {
	Kubernetes
	tokens *jwt.Verifier
}

func newCluster(k Kubernetes, log *slog.Logger) (*cluster, error) {
	switch {
	case k.Issuer == "":
		return nil, errors.New("issuer is missing")
	case k.Audience == "":
		return nil, errors.New("audience is missing: without it, tokens for other systems would count here")
	case (k.JWKSURL == "") == (k.JWKSFile == ""):
		return nil, errors.New("want one of jwks_url and jwks_file")
	case len(k.Accounts) == 0:
		return nil, errors.New("accounts is missing: nobody could enrol")
	}
	for i, a := range k.Accounts {
		if a.Namespace == "" || a.Name == "" {
			return nil, fmt.Errorf(`accounts[%d]: namespace and name are required ("*" is any)`, i)
		}
		if err := checkPattern(strings.NewReplacer("{namespace}", "x", "{name}", "x").Replace(a.Service)); err != nil || strings.Contains(a.Service, "*") {
			return nil, fmt.Errorf("accounts[%d]: service %q is not a service's name", i, a.Service)
		}
	}
	t := &http.Transport{ForceAttemptHTTP2: true, MaxIdleConns: 2, IdleConnTimeout: time.Minute, Proxy: http.ProxyFromEnvironment}
	if k.CAFile != "" {
		pem, err := os.ReadFile(k.CAFile)
		if err != nil {
			return nil, err
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file %s holds no certificate", k.CAFile)
		}
		t.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	if k.JWKSURL != "" {
		if u, err := url.Parse(k.JWKSURL); err != nil || u.Scheme != "https" || u.Host == "" {
			return nil, fmt.Errorf("jwks_url %q is not an https URL", k.JWKSURL)
		}
	} else if _, err := os.Stat(k.JWKSFile); err != nil {
		return nil, err
	}
	return &cluster{k, jwt.New(jwt.Config{HTTPClient: &http.Client{Transport: bearer{k, t}}, Logger: log})}, nil
}

// bearer shows the token of the file to the keys' own host, and to none that it redirects to.
type bearer struct {
	Kubernetes
	*http.Transport
}

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	if b.BearerFile != "" && r.URL.String() == b.JWKSURL {
		token, err := os.ReadFile(b.BearerFile)
		if err != nil {
			return nil, err
		}
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	return b.Transport.RoundTrip(r)
}

// issuer is how package jwt is told what to accept.
func (c *cluster) issuer() (*policy.TokenIssuer, error) {
	t := &policy.TokenIssuer{
		Issuer: c.Issuer, Audiences: []string{c.Audience}, JWKSURL: c.JWKSURL, ClockSkew: time.Minute,
		Algorithms: []string{"RS256", "RS384", "RS512", "ES256", "ES384", "ES512"},
	}
	if c.JWKSFile != "" {
		keys, err := os.ReadFile(c.JWKSFile)
		if err != nil {
			return nil, err
		}
		if len(keys) > policy.MaxJWKS {
			return nil, fmt.Errorf("%s is larger than %d bytes", c.JWKSFile, policy.MaxJWKS)
		}
		t.JWKS = string(keys)
	}
	raw, err := json.Marshal(t)
	t.Digest = sha256.Sum256(raw)
	return t, err
}

// verify returns a token's claims; it waits for keys that are being fetched until ctx is done.
func (c *cluster) verify(ctx context.Context, token string) (map[string]any, error) {
	issuer, err := c.issuer()
	if err != nil {
		return nil, err
	}
	for range 3 {
		t, err := c.tokens.Verify(token, []*policy.TokenIssuer{issuer})
		pending, ok := errors.AsType[*policy.PendingError](err)
		if !ok {
			if err != nil {
				return nil, &refusal{http.StatusUnauthorized, "the service-account token is not accepted: " + err.Error()}
			}
			return t.Claims, nil
		}
		select {
		case <-pending.Ready:
		case <-ctx.Done():
			return nil, fmt.Errorf("the keys of %s: %w", c.Issuer, ctx.Err())
		}
	}
	return nil, fmt.Errorf("the keys of %s can't be fetched", c.Issuer)
}

// checkKubernetes returns the service account that has proved itself.
func (g *Gate) checkKubernetes(ctx context.Context, a ask) (who string, err error) {
	if len(g.clusters) == 0 {
		return "", refuse("this control plane knows no Kubernetes cluster (enrol.kubernetes in its settings)")
	}
	for _, c := range g.clusters {
		claims, verr := c.verify(ctx, a.proof)
		if verr != nil {
			if _, final := errors.AsType[*refusal](err); err == nil || final {
				err = verr // that of a cluster which may yet accept it counts most
			}
			continue
		}
		namespace, name, cerr := account(claims)
		if cerr != nil {
			return "", cerr
		}
		who = namespace + "/" + name
		if !c.allows(namespace, name, a.service) {
			return who, refuse("service account %s may not be %s: no entry of enrol.kubernetes says so", who, a.service)
		}
		return who, nil
	}
	return "", err
}

// account reads whose token it is. The subject decides; the claim "kubernetes.io" must not contradict it.
func account(claims map[string]any) (namespace, name string, err error) {
	subject, _ := claims["sub"].(string)
	rest, ok := strings.CutPrefix(subject, "system:serviceaccount:")
	namespace, name, whole := strings.Cut(rest, ":")
	if !ok || !whole || namespace == "" || name == "" || strings.Contains(name, ":") {
		return "", "", refuse("the token is not a service account's")
	}
	if k, there := claims["kubernetes.io"]; there {
		k, _ := k.(map[string]any)
		sa, _ := k["serviceaccount"].(map[string]any)
		if k["namespace"] != namespace || sa["name"] != name {
			return "", "", refuse("the token contradicts itself about its service account")
		}
	}
	return namespace, name, nil
}

func (c *cluster) allows(namespace, name, service string) bool {
	for _, a := range c.Accounts {
		_, inNamespace := match(a.Namespace, namespace)
		_, named := match(a.Name, name)
		if inNamespace && named && strings.NewReplacer("{namespace}", namespace, "{name}", name).Replace(a.Service) == service {
			return true
		}
	}
	return false
}
