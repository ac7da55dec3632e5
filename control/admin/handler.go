package admin

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"

	"github.com/intramesh/mesh/internal/wire"
	"github.com/intramesh/mesh/policy"
)

// Handler serves a backend to [Client]. Failures that are not the operator's doing are logged.
func Handler(b Backend, log *slog.Logger) http.Handler {
	h := handler{b, log}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/tokens", h.createToken)
	mux.HandleFunc("GET /v1/tokens", h.tokens)
	mux.HandleFunc("DELETE /v1/tokens/{id}", h.revokeToken)
	mux.HandleFunc("GET /v1/bootstrap", h.bootstrap)
	mux.HandleFunc("POST /v1/revocations", h.revoke)
	mux.HandleFunc("GET /v1/revocations", h.revocations)
	mux.HandleFunc("DELETE /v1/revocations", h.unrevoke)
	mux.HandleFunc("GET /v1/rules", h.rules)
	mux.HandleFunc("POST /v1/rules", h.apply)
	mux.HandleFunc("DELETE /v1/rules", h.delete)
	mux.HandleFunc("GET /v1/members", h.members)
	mux.HandleFunc("POST /v1/explain", h.explain)
	return mux
}

type handler struct {
	Backend
	log *slog.Logger
}

func (h handler) rules(w http.ResponseWriter, r *http.Request) {
	v, err := h.Rules(r.Context())
	h.answer(w, r, v, err)
}

func (h handler) apply(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, wire.MaxBundleBytes))
	if err != nil {
		h.answer(w, r, nil, Refuse(http.StatusBadRequest, err))
		return
	}
	docs, err := policy.Parse("", body)
	if err != nil {
		h.answer(w, r, nil, Refuse(http.StatusBadRequest, err))
		return
	}
	v, err := h.Apply(r.Context(), docs)
	h.answer(w, r, v, err)
}

func (h handler) delete(w http.ResponseWriter, r *http.Request) {
	v, err := h.Delete(r.Context(), r.URL.Query()["name"])
	h.answer(w, r, v, err)
}

func (h handler) members(w http.ResponseWriter, r *http.Request) {
	v, err := h.Members(r.Context())
	h.answer(w, r, v, err)
}

func (h handler) explain(w http.ResponseWriter, r *http.Request) {
	var q Question
	if !h.read(w, r, &q) {
		return
	}
	v, err := h.Explain(r.Context(), q)
	h.answer(w, r, v, err)
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
			h.log.ErrorContext(r.Context(), "operator's request failed", "op", r.Pattern, "error", err)
			refusal = &Error{http.StatusInternalServerError, err.Error()}
		}
		status, v = refusal.Status, refusal
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the operator is gone: nobody to tell
}
