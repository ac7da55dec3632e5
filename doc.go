// Package mesh makes a Go program a node of a service mesh: no sidecar, no agent. It joins, and gets a dialer and a
// listener whose connections are mutual TLS between verified identities, found by gossip, and allowed by rules that are
// written centrally and enforced here, on each connection and each request.
//
//	b, err := mesh.BootstrapFromEnv()
//	m, err := mesh.Join(ctx, mesh.Config{Service: "payments", Bootstrap: b})
//	ln, err := m.Listen(ctx, "tcp", ":0")
//	err = http.Serve(ln, m.Handler(mux))
//
// # Joining
//
// [Join] gets an identity, finds the other members and receives the rules. [BootstrapFromEnv] reads where the control
// plane is from MESH_BOOTSTRAP, which "mesh token SERVICE" prints. Whatever is set in [Config] is used instead: a SPIFFE
// source of your own, a fixed list of endpoints, a function that decides. With a Config.StateDir, a restart works
// without the control plane, and without a new token.
//
// # Names
//
// A service is named by the path of its SPIFFE ID: spiffe://prod.example/billing/invoices is "billing/invoices". Its
// segments are made of a–z, 0–9, "-" and "_". Where a slash can't stand, as in the host of a URL, a dot does:
// "http://billing.invoices/". A process may serve several named ports, dialed as "payments:admin", and in a URL
// as "http://_admin.payments/".
//
// # Dialing
//
// [Mesh.Dial] connects to a service, for any protocol. Its signature is the one that other libraries expect of a dialer.
// It fails unless the certificate that answers is the service's.
//
// # Listening
//
// [Mesh.Listen] announces a named port and returns a net.Listener whose connections are verified and allowed.
// [PeerFromConn] tells who called. A TLS client that presents a valid SVID is served as well, without any of our code.
//
// # One host
//
// On Linux, processes of one user in one network namespace reach each other by Unix sockets, which takes a tenth to a third of the CPU
// away. They find out by themselves; handshakes, rules and addresses are those of TCP, except that the port of a caller is a mere
// number. Setting Config.Network turns it off.
//
// # HTTP
//
// [Mesh.HTTPClient] calls services by name and balances requests, not connections, over their endpoints.
// [Mesh.Handler] decides each request before the handler sees it; [PeerFromContext] tells who called.
//
// # gRPC
//
// Package meshgrpc has clients and servers; it is a package of its own so that programs without gRPC do not link it.
//
// # Identity
//
// Package identity has sources of certificates: PEM files, a step-ca, or any source of go-spiffe.
// Certificates are renewed while connections go on. Whose certificate has expired can neither dial nor accept.
//
// # Discovery
//
// Package discovery has the interface, and packages below it the gossip, a fixed list, and what others list: files, DNS,
// Kubernetes, Consul. Any of them is Config.Discovery, or, beside the gossip, Config.AlsoDiscovery. It is never asked who somebody
// is: an endpoint is an address to try.
//
// # Health
//
// A process is ready from the beginning, unless it says otherwise: [Mesh.SetReady], or package health, which asks the application over
// HTTP or gRPC. Others send requests to those that are ready, and take them away from those that fail; package health can
// also ask them. [Mesh.Shutdown] says that it drains first.
//
// # Policy
//
// Package policy has the rules' document and the engine. Without rules, everybody is denied. When the rules or a
// certificate change, open connections are decided again, and those that are no longer allowed are closed. Rules from a control
// plane may also revoke certificates: nobody accepts or dials who shows one, and open connections to it are closed.
//
// Rules that look at the claims of a request's JSON Web Token need [Config].Tokens; package policy/jwt verifies them. A request
// that was allowed by its token ends with it.
//
// # Errors
//
// A call that found nobody is a [*DialError]; one that the rules refuse is a [*DeniedError], which names the rule; one on
// a closed mesh is [ErrClosed]. Inside a [*DialError] to somebody whose certificate is revoked is a [*policy.RevokedError]. A raw connection reports its refusal at the first Read or Write, since in TLS 1.3 the client is done
// before the server has decided; an HTTP request gets a 403 that [DeniedFromResponse] reads.
//
// # Testing
//
// Package meshtest is a whole mesh in memory for your tests: real TLS, real rules, no sockets.
package mesh
