// Package meshtest is a whole mesh in memory, for tests of services that use package mesh:
// certificates, discovery, rules and the network between them, without a control plane and without
// sockets.
//
//	net := meshtest.New(t, meshtest.Allow("payments", "orders"))
//	payments := net.Join(t, "payments")
//	orders := net.Join(t, "orders")
//
// What these are is the real thing: every connection is mutual TLS, and every decision the policy
// engine's. Nothing is to be waited for. A port can be dialed when Listen returns; rules decide
// when [Net.SetRules] returns.
//
// All of it works inside a testing/synctest bubble, where [New] and everything after it belong
// into the bubble: certificates live for an hour of its clock.
package meshtest
