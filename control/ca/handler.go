package ca

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/intramesh/mesh/identity"
	"github.com/intramesh/mesh/internal/wire"
	"github.com/smallstep/certificates/api"
	"github.com/smallstep/certificates/authority"
	"github.com/smallstep/certificates/db"
	"github.com/smallstep/certificates/logging"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// maxBody bounds a request: a CSR and a token take about 2 KiB.
const maxBody = 64 << 10

// Server returns an HTTPS server of the CA's API; the caller gives it a listener by
// ServeTLS(ln, "", "") and closes it before the CA. enrol, if not nil, serves [wire.PathEnrol] beside it.
func (c *CA) Server(enrol http.Handler) *http.Server {
	return &http.Server{
		Handler: c.handler(enrol),
		TLSConfig: &tls.Config{
			MinVersion:     tls.VersionTLS13,
			GetCertificate: c.serverCertificate,
			// Proves that the client holds the key of the certificate that it shows; guard
			// verifies the certificate, on every request.
			ClientAuth:             tls.RequestClientCert,
			SessionTicketsDisabled: true,
		},
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      20 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(c.log.Handler(), slog.LevelDebug),
	}
}

// handler serves step-ca's API, at its root and below /1.0 as step-ca does. What is not
// listed here (SSH, ACME, provisioners and their encrypted keys, administration) is not there.
func (c *CA) handler(enrol http.Handler) http.Handler {
	r := chi.NewRouter()
	if enrol != nil {
		r.Method(http.MethodPost, wire.PathEnrol, enrol)
	}
	step := chi.NewRouter()
	step.Use(c.context)
	routes := func(r chi.Router) {
		r.Get("/health", api.Health)
		r.Get("/root/{sha}", c.root)
		r.Post("/sign", c.sign)
		r.Post("/rekey", c.guard(c.rekey))
		if c.external != nil {
			r.Get("/roots", c.externalRoots)
			r.Post("/renew", noRenewal)
			return
		}
		r.Get("/version", api.Version)
		r.Get("/roots", api.Roots)
		r.Get("/roots.pem", api.RootsPEM)
		r.Post("/renew", c.guard(c.renewing(api.Renew)))
	}
	routes(step)
	step.Route("/1.0", routes)
	r.Mount("/", step)
	return r
}

// context gives smallstep's handlers their authority, bounds the body, and logs the outcome.
func (c *CA) context(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := db.NewContext(authority.NewContext(r.Context(), c.trust.Load().auth), c.db)
		rl := logging.NewResponseLogger(w)
		if r.Body != nil {
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		}
		next.ServeHTTP(rl, r.WithContext(ctx))
		if r.Method == http.MethodPost && rl.StatusCode() != http.StatusNotFound {
			c.logOutcome(ctx, r, rl)
		}
	})
}

// logOutcome picks what is safe to log: smallstep's own fields include the token.
func (c *CA) logOutcome(ctx context.Context, r *http.Request, rl logging.ResponseLogger) {
	attrs := []any{"op", r.URL.Path, "remote", r.RemoteAddr}
	fields := rl.Fields()
	for _, f := range []string{"subject", "serial", "valid-to"} {
		if v, ok := fields[f]; ok {
			attrs = append(attrs, f, v)
		}
	}
	if rl.StatusCode() < 400 {
		c.log.InfoContext(ctx, "certificate issued", attrs...)
		return
	}
	c.log.WarnContext(ctx, "certificate refused", append(attrs, "status", rl.StatusCode(), "error", fields["error"])...)
}

// sign checks the token before smallstep does, and lets one request at a time through.
func (c *CA) sign(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body) // all of it before the lock, which a slow client must not hold
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	var req api.SignRequest
	if err := json.Unmarshal(body, &req); err != nil || req.CsrPEM.CertificateRequest == nil {
		refuse(w, http.StatusBadRequest, errors.New("the body is not the expected JSON"))
		return
	}
	cl, err := c.checkToken(req.OTT)
	if err != nil {
		refuse(w, http.StatusUnauthorized, err)
		return
	}
	if err := checkRequest(req.CsrPEM.CertificateRequest, cl.SANs[0], cl.Subject); err != nil {
		refuse(w, http.StatusForbidden, err)
		return
	}
	if !req.NotBefore.IsZero() { // it would make a certificate look newer than a revocation
		refuse(w, http.StatusBadRequest, errors.New("notBefore can't be asked for"))
		return
	}
	if err := c.Admit(r.Context(), cl.Subject); err != nil {
		refuse(w, http.StatusForbidden, err)
		return
	}
	if c.external != nil {
		c.signExternal(w, r, &req, cl)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	c.signing.Lock()
	defer c.signing.Unlock()
	api.Sign(w, r)
}

// guard lets a request pass whose client certificate is in force, issued by this CA to a
// service, and not revoked. smallstep checks none of the first three: it renews a self-signed
// or an expired certificate into a valid one.
func (c *CA) guard(next func(w http.ResponseWriter, r *http.Request, id spiffeid.ID)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
			refuse(w, http.StatusUnauthorized, errors.New("renewal takes the certificate to renew as TLS client certificate"))
			return
		}
		id, err := c.checkPeer(r.Context(), r.TLS.PeerCertificates)
		if err != nil {
			refuse(w, http.StatusUnauthorized, err)
			return
		}
		next(w, r, id)
	}
}

// checkPeer returns whom a certificate is for that may be renewed.
func (c *CA) checkPeer(ctx context.Context, chain []*x509.Certificate) (id spiffeid.ID, err error) {
	leaf := chain[0]
	if c.external == nil {
		chain = chain[:1:1]
		for _, is := range c.trust.Load().issuers { // our own intermediates, not what the client sent along
			chain = append(chain, is.intermediate)
		}
	}
	if id, err = identity.Verify(chain, c.Bundle()); err == nil {
		err = (enforcer{c.td}).Enforce(leaf)
	}
	if err == nil {
		err = c.checkRevoked(ctx, id, leaf)
	}
	if err != nil {
		return id, fmt.Errorf("the certificate can't be renewed: %w", err)
	}
	return id, nil
}

// rekey checks the request: smallstep takes the new key of it as it is, and ignores the rest.
func (c *CA) rekey(w http.ResponseWriter, r *http.Request, id spiffeid.ID) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	var req api.RekeyRequest
	if err := json.Unmarshal(body, &req); err != nil || req.CsrPEM.CertificateRequest == nil {
		refuse(w, http.StatusBadRequest, errors.New("the body is not the expected JSON"))
		return
	}
	if err := checkRequest(req.CsrPEM.CertificateRequest, id.String(), identity.ServiceName(id)); err != nil {
		refuse(w, http.StatusForbidden, err)
		return
	}
	if err := checkKey(req.CsrPEM.PublicKey); err != nil {
		refuse(w, http.StatusForbidden, err)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	next := api.Rekey
	if c.external != nil {
		next = c.rekeyExternal
	}
	c.renewing(next)(w, r, id)
}

// refuse answers as step-ca does.
func refuse(w http.ResponseWriter, status int, err error) {
	if rl, ok := w.(logging.ResponseLogger); ok {
		rl.WithFields(map[string]any{"error": err})
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"status": status, "message": err.Error()}) // the client is gone: nobody to tell
}
