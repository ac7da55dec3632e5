package ca

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
)

// checkRequest refuses a certificate request that asks for more than the identity it can have, and
// names what. smallstep would refuse most of it at /sign with less to go by, and ignore all of it
// at /rekey.
func checkRequest(csr *x509.CertificateRequest, id, service string) error {
	const rest = "a certificate here names one service and nothing else"
	switch {
	case len(csr.DNSNames) > 0:
		return fmt.Errorf("the certificate request asks for the DNS name %s: %s", quote(csr.DNSNames[0]), rest)
	case len(csr.IPAddresses) > 0:
		return fmt.Errorf("the certificate request asks for the IP address %s: %s", csr.IPAddresses[0], rest)
	case len(csr.EmailAddresses) > 0:
		return fmt.Errorf("the certificate request asks for the e-mail address %s: %s", quote(csr.EmailAddresses[0]), rest)
	case len(csr.URIs) > 1:
		return fmt.Errorf("the certificate request asks for %d URIs, the second is %s: %s", len(csr.URIs), quote(csr.URIs[1].String()), rest)
	case len(csr.URIs) == 1 && csr.URIs[0].String() != id:
		return fmt.Errorf("the certificate request asks for the identity %s, but it can only have %s", quote(csr.URIs[0].String()), id)
	case csr.Subject.CommonName != "" && csr.Subject.CommonName != service && csr.Subject.CommonName != id:
		return fmt.Errorf("the certificate request asks for the common name %s, but it can only have %q or none", quote(csr.Subject.CommonName), service)
	}
	return checkNames(csr)
}

// checkNames finds alternative names of the kinds that crypto/x509 passes over, such as user principal names.
func checkNames(csr *x509.CertificateRequest) error {
	for _, ext := range csr.Extensions {
		if !ext.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
			continue
		}
		var names []asn1.RawValue
		if rest, err := asn1.Unmarshal(ext.Value, &names); err != nil || len(rest) > 0 {
			return errors.New("the certificate request's alternative names are malformed")
		}
		if n := len(names); n > len(csr.URIs) {
			return fmt.Errorf("the certificate request asks for an alternative name of the kind %d (RFC 5280 section 4.2.1.6): only a URI can be had", names[n-1].Tag)
		}
	}
	return nil
}

// quote makes what a client sent safe to print, and short.
func quote(s string) string {
	const enough = 200
	if len(s) > enough {
		return fmt.Sprintf("%q…", s[:enough])
	}
	return fmt.Sprintf("%q", s)
}
