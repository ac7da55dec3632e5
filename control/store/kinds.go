package store

// The kinds of records. The certificate authority's tables are kinds of their own, [KindCA] and
// the table's name.
const (
	KindRules     = "rules"       // the current version, under one key
	KindHistory   = "history"     // what each version changed, by version
	KindRulesData = "rules-data"  // the documents of a version, in parts
	KindOperators = "operators"   // revoked certificates of operators, by serial number
	KindAudit     = "audit"       // by time
	KindReplicas  = "replicas"    // the control planes on this store, by their id
	KindMesh      = "mesh"        // what must be the same at all replicas
	KindKeyring   = "keyring"     // sealed keys, by what they are for
	KindTrust     = "trust"       // who reports what during a rotation of the root, by replica
	KindTokens    = "join-tokens" // by id
	KindCA        = "ca-"
)
