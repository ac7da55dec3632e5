package payments

# The cents that each caller may charge at once.
limits := {"orders": 5000, "trial": 100}

default allow := false

allow if {
	input.method == "POST"
	["", "charge", cents] = split(input.path, "/")
	to_number(cents) > 0
	to_number(cents) <= limits[input.caller]
}
