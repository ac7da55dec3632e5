module github.com/intramesh/mesh/control

go 1.26

require github.com/intramesh/mesh v0.0.0

replace github.com/intramesh/mesh => ../
