// Package identity answers who a process is. A [Source] hands out an X.509 SVID
// (the SPIFFE certificate and its private key) and the authorities that peers are
// verified against.
//
// Sources of this package: [Files] (PEM files, reloaded when they change),
// [StepCA] (enrols with a step-ca and renews by itself) and [Static]. Any source of
// go-spiffe, such as workloadapi.X509Source, is a Source as it is.
//
// See the SPIFFE X.509-SVID specification,
// https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md.
package identity

import (
	"strings"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// A Source provides the SVID that a process shows and the bundles it trusts. Both
// methods are called on every handshake, from many goroutines: they answer from memory
// and never block on the network.
//
// A Source that can change may also have one of
//
//	Changed() <-chan struct{} // closed at the next change; call again for the one after
//	Updated() <-chan struct{} // receives after each change (go-spiffe's convention; one reader)
//
// so that open connections are decided again when the trust bundle is replaced.
type Source interface {
	x509svid.Source
	x509bundle.Source
}

// ServiceName returns the service that an ID stands for: its path without the leading
// slash. It is empty for an ID that names only a trust domain, and for the zero ID.
func ServiceName(id spiffeid.ID) string {
	return strings.TrimPrefix(id.Path(), "/")
}
