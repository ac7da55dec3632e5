// Package claims knows the headers by which proxies tell a server who the client is. In a mesh the
// certificate tells it: these are removed from what comes in, and no rule sees them.
package claims

// Has reports whether a header claims an identity. The key is in canonical form
// (net/http.CanonicalHeaderKey).
func Has(key string) bool {
	switch key {
	case "X-Forwarded-Client-Cert", "Forwarded-Client-Cert", "X-Client-Cert", "X-Client-Dn",
		"X-Ssl-Client-Cert", "X-Ssl-Client-S-Dn", "X-Ssl-Client-Verify", "Ssl-Client-Cert", "X-Spiffe-Id",
		"Client-Cert", "Client-Cert-Chain": // RFC 9440
		return true
	}
	return false
}
