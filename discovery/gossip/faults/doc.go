// Package faults tests gossip among real processes on a network that fails: each has a network namespace of its own, with a
// cable to a common switch. It needs Linux, root and the programs ip and nft, and skips what it can't do. With MESH_NIGHTLY=1
// failures last longer.
package faults
