package policy

import _ "embed"

//go:embed schema.json
var schema string

// Schema returns a JSON Schema (draft 2020-12) of a [Document] of any kind, for editors and other tools. [Parse]
// refuses what it refuses (but for an empty text in place of a field left out), and checks more. It is also the file schema.json of this package.
func Schema() string { return schema }
