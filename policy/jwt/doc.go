// Package jwt verifies JSON Web Tokens (RFC 7519) for rules that look at their claims.
//
//	tokens := jwt.New(jwt.Config{})
//	defer tokens.Close()
//	m, err := mesh.Join(ctx, mesh.Config{Tokens: tokens, …})
//
// Which issuers count, and where their keys are, is in the rules: the documents of kind TokenIssuer. It is a package
// of its own so that a program without such rules does not link the cryptography.
package jwt
