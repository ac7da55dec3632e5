// Package attacks is a table of what a hostile peer can do to a member of the mesh: every attack against every protocol, by
// members that the rules allow, by members that they deny, and by strangers; and what hostile servers can do to a client. Each
// asserts that memory, goroutines and logs stay bounded, that what the attack holds is given back in bounded time, and that a
// neighbour's calls are all answered meanwhile. It holds tests alone. With MESH_NIGHTLY=1 the doses are ten times as large.
package attacks
