package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/intramesh/mesh/control/store"
)

// A Role says what a caller may do. Each may do what those before it may.
type Role int

// The roles.
const (
	// Viewer reads rules, members and their state.
	Viewer Role = iota + 1
	// Editor changes rules.
	Editor
	// Admin decides who is in the mesh: tokens, revocations, snapshots. It reads the audit log.
	Admin
)

var roleNames = [...]string{"none", "viewer", "editor", "admin"} //nolint:gochecknoglobals // a constant

// String is the role's name.
func (r Role) String() string {
	if r < 0 || int(r) >= len(roleNames) {
		return fmt.Sprintf("Role(%d)", int(r))
	}
	return roleNames[r]
}

// ParseRole reads a role's name.
func ParseRole(name string) (Role, error) {
	for r := Viewer; r <= Admin; r++ {
		if r.String() == name {
			return r, nil
		}
	}
	return 0, fmt.Errorf("admin: role %q: want viewer, editor or admin", name)
}

// A Caller is who makes a request, as the listener that took it has verified.
type Caller struct {
	store.Actor
	Role Role
}

type callerKey struct{}

// WithCaller tells [Handler] who makes the requests under ctx: a listener's ConnContext, or a handler before it. Without
// it every request is refused.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(store.WithActor(ctx, c.Actor), callerKey{}, c)
}

// allow lets callers of a role through.
func (h handler) allow(role Role, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		caller, ok := r.Context().Value(callerKey{}).(Caller)
		switch {
		case !ok || caller.Role < Viewer:
			h.answer(w, r, nil, Refuse(http.StatusUnauthorized, errors.New("who calls is not known")))
		case caller.Role < role:
			h.log.WarnContext(r.Context(), "operator's request denied", "op", r.Pattern, "caller", caller.Name, "from", caller.From, "role", caller.Role.String())
			h.answer(w, r, nil, Refuse(http.StatusForbidden, fmt.Errorf("%s is %s: this takes %s", caller.Name, caller.Role, role)))
		default:
			next(w, r)
		}
	}
}
