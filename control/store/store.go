// Package store keeps what a control plane must not lose: rules with their history, tokens,
// the certificate authority's records, the audit log.
//
// It has two layers. A [DB] holds records and commits changes of them all or none: [Bolt], a
// file, or [Etcd], which any number of control planes share. On top of it are [RuleBook] for rules,
// [Table] for records of one Go type, and [Audit] for the log of changes.
//
// # A new kind of record
//
// Choose a name for the kind, unlike those in kinds.go, add it there, and make a [Table] of it:
//
//	tokens := store.Table[Token]{DB: db, Kind: store.KindTokens}
//	token, revision, err := tokens.Get(ctx, id)
//	token.Uses--
//	op, err := tokens.Op(id, token, revision) // only if it is still what Get returned
//	_, err = db.Commit(ctx, op, store.Audit(ctx, "token used", id, ""))
//
// [Table.Update] is that with retries. A commit may span kinds. Conditions are compared at commit, so
// two replicas never both win. Records are part of a snapshot by themselves. A kind that grows without
// end wants a line in the control plane's sweep (see [Prune]).
//
// What must reach members together with the rules is attached to them: [Edit].Attach, and
// [Rules].Attached in what is published.
package store
