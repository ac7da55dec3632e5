package control

import "time"

// Settings is what mesh.yaml in the control plane's directory holds. The zero value of every
// field but TrustDomain means its default.
type Settings struct {
	// TrustDomain is the mesh's SPIFFE trust domain, "example.test". It can't change later.
	TrustDomain string `yaml:"trust_domain"`
	// Advertise is the host name or IP address under which members reach the control
	// plane; the default is 127.0.0.1.
	Advertise string `yaml:"advertise"`
	// Listen says where to listen.
	Listen Listen `yaml:"listen"`
	// CertificateLifetime is how long a member's certificate is valid; the default is 24 h.
	CertificateLifetime time.Duration `yaml:"certificate_lifetime"`
	// TokenLifetime is how long an unused token is valid unless "mesh token" says
	// otherwise; the default is 1 h.
	TokenLifetime time.Duration `yaml:"token_lifetime"`
}

// Listen holds addresses to listen on, "host:port". Port 0 takes a free one, which is
// written to run.json and taken again at the next start if it is still free.
type Listen struct {
	// CA is the certificate authority's HTTPS; the default is 127.0.0.1:7440, or :7440
	// when Advertise is not a loopback address (and so on for the others).
	CA string `yaml:"ca"`
	// Mesh takes members' connections; the default port is 7441.
	Mesh string `yaml:"mesh"`
	// Gossip is used on UDP and TCP; the default port is 7442.
	Gossip string `yaml:"gossip"`
}
