module github.com/intramesh/mesh/examples

go 1.26

require (
	github.com/intramesh/mesh v0.0.0
	github.com/intramesh/mesh/control v0.0.0
)

replace (
	github.com/intramesh/mesh => ../
	github.com/intramesh/mesh/control => ../control
)
