package store

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"iter"
	"time"
)

// An Actor is who makes a change, as the interface that the change came through has verified it.
type Actor struct {
	// Name is "alice" by an admin's certificate, "uid 1000" on the local socket, "" for the
	// control plane itself.
	Name string `json:"name,omitempty"`
	// From is the address, or "socket".
	From string `json:"from,omitempty"`
}

type actorKey struct{}

// WithActor tells [Audit] and [RuleBook] who makes the changes under ctx.
func WithActor(ctx context.Context, a Actor) context.Context {
	return context.WithValue(ctx, actorKey{}, a)
}

// ActorFrom returns what WithActor put in, or the zero Actor.
func ActorFrom(ctx context.Context) Actor {
	a, _ := ctx.Value(actorKey{}).(Actor)
	return a
}

// An AuditEntry is one change: who, when, from where, what. There are no secrets in it.
type AuditEntry struct {
	At time.Time `json:"at"`
	By Actor     `json:"by"`
	// Action is such as "rules applied", Subject what it was done to, Detail the rest.
	Action  string `json:"action"`
	Subject string `json:"subject,omitempty"`
	Detail  string `json:"detail,omitempty"`
}

const maxAuditText = 4 << 10

// Audit returns the op that logs a change, to commit with the change: neither is there without the other. Who
// is from [WithActor]. Texts are cut at 4 KiB.
func Audit(ctx context.Context, action, subject, detail string) Op {
	now := time.Now().UTC()
	raw, err := json.Marshal(AuditEntry{now, ActorFrom(ctx), action, clip(subject), clip(detail)})
	if err != nil {
		panic("store: a struct of strings did not marshal: " + err.Error())
	}
	return Op{Kind: KindAudit, Key: fmt.Sprintf("%020d-%s", now.UnixNano(), rand.Text()[:8]), Value: raw, If: Absent}
}

func clip(s string) string {
	if len(s) > maxAuditText {
		return s[:maxAuditText] + "…"
	}
	return s
}

// AuditLog yields the log, oldest first.
func AuditLog(ctx context.Context, db DB) iter.Seq2[AuditEntry, error] {
	return func(yield func(AuditEntry, error) bool) {
		for e, err := range (Table[AuditEntry]{db, KindAudit}).All(ctx) {
			if !yield(e.Value, err) {
				return
			}
		}
	}
}
