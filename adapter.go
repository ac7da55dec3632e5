package mesh

// ParseAddress splits what is dialed, "payments" or "billing.invoices:admin", into the service
// and its named port, as [Mesh.Dial] does. For adapters.
func ParseAddress(address string) (service, port string, err error) {
	t, err := parseTarget(address)
	return t.service, t.port, err
}

// Encode returns the denial as one line of printable ASCII, which [ParseDenied] reads: what the
// HTTP header and, in a gRPC status's details, the ErrorInfo's metadata "mesh-denied" hold. For adapters.
func (e *DeniedError) Encode() string { return encodeDenied(e) }

// ParseDenied reads what [DeniedError.Encode] wrote. It says what the peer claims: trust it as
// far as the peer. For adapters.
func ParseDenied(s string) (*DeniedError, bool) { return decodeDenied(s) }
