package admin

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"

	"github.com/intramesh/mesh/control/store"
)

// Handler serves a backend to [Client]. Who calls is as [WithCaller] says. Failures that are not the operator's doing
// are logged.
func Handler(b Backend, log *slog.Logger) http.Handler {
	h := handler{b, log}
	mux := http.NewServeMux()
	for _, r := range h.routes() {
		mux.HandleFunc(r.pattern, h.allow(r.role, r.serve))
	}
	return mux
}

// A route is one operation. openapi.json describes it.
type route struct {
	pattern string
	role    Role // at least
	serve   http.HandlerFunc
}

func (h handler) routes() []route {
	return []route{
		{"GET /v1/openapi.json", Viewer, h.openAPI},
		{"GET /v1/rules", Viewer, h.rules},
		{"POST /v1/rules", Editor, h.apply},
		{"DELETE /v1/rules", Editor, h.delete},
		{"GET /v1/history", Viewer, h.history},
		{"GET /v1/history/{version}", Viewer, h.version},
		{"POST /v1/history/{version}/rollback", Editor, h.rollback},
		{"POST /v1/explain", Viewer, h.explain},
		{"GET /v1/members", Viewer, h.members},
		{"GET /v1/status", Viewer, h.status},
		{"GET /v1/audit", Admin, h.audit},
		{"GET /v1/snapshot", Admin, h.snapshot},
		{"GET /v1/bootstrap", Viewer, h.bootstrap},
		{"POST /v1/tokens", Admin, h.createToken},
		{"GET /v1/tokens", Admin, h.tokens},
		{"DELETE /v1/tokens/{id}", Admin, h.revokeToken},
		{"GET /v1/ca", Viewer, h.authorities},
		{"POST /v1/ca/rotation", Admin, h.rotate},
		{"DELETE /v1/ca/rotation", Admin, h.abortRotation},
		{"POST /v1/revocations", Admin, h.revoke},
		{"GET /v1/revocations", Viewer, h.revocations},
		{"DELETE /v1/revocations", Admin, h.unrevoke},
		{"DELETE /v1/identities/{serial}", Admin, h.revokeIdentity},
		{"GET /v1/keys", Viewer, h.keys},
		{"POST /v1/keys", Admin, h.installKey},
		{"PUT /v1/keys/{id}", Admin, h.useKey},
		{"DELETE /v1/keys/{id}", Admin, h.removeKey},
	}
}

// Routes returns the operations, as patterns of [http.ServeMux], with the role that each takes.
func Routes() map[string]Role {
	all := make(map[string]Role)
	for _, r := range (handler{}).routes() {
		all[r.pattern] = r.role
	}
	return all
}

type handler struct {
	Backend
	log *slog.Logger
}

// read decodes a small request.
func (h handler) read(w http.ResponseWriter, r *http.Request, v any) bool {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		h.answer(w, r, nil, Refuse(http.StatusBadRequest, err))
		return false
	}
	return true
}

func (h handler) answer(w http.ResponseWriter, r *http.Request, v any, err error) {
	status := http.StatusOK
	if err != nil {
		refusal, ok := errors.AsType[*Error](err)
		if !ok {
			refusal = &Error{statusOf(err), err.Error()}
		}
		if refusal.Status >= http.StatusInternalServerError {
			h.log.ErrorContext(r.Context(), "operator's request failed", "op", r.Pattern, "error", err)
		}
		status, v = refusal.Status, refusal
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the operator is gone: nobody to tell
}

// statusOf is that of an error of the store.
func statusOf(err error) int {
	if _, ok := errors.AsType[*store.StaleError](err); ok {
		return http.StatusConflict
	}
	if _, ok := errors.AsType[*store.ConflictError](err); ok {
		return http.StatusConflict
	}
	if _, ok := errors.AsType[*store.UnavailableError](err); ok {
		return http.StatusServiceUnavailable
	}
	switch {
	case errors.Is(err, store.ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, store.ErrInvalid):
		return http.StatusBadRequest
	}
	return http.StatusInternalServerError
}
