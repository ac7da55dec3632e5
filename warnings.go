package mesh

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/intramesh/mesh/internal/wire"
	"github.com/intramesh/mesh/policy"
)

// warnings are the rules in force that a listener of ours can't evaluate. They are logged, and reported to the
// control plane, when they come up.
type warnings struct {
	checking sync.Mutex // held while finding out, so that what is known is never older than it was

	mu      sync.Mutex
	all     []string                // sorted
	waiting context.CancelCauseFunc // ends a poll that did not report them; may be nil
}

// errWarnings ends a poll for newer rules since there is something to report.
var errWarnings = errors.New("the rules can't be evaluated in full")

// checkRules finds out anew what can't be evaluated. What a listener can is known when its Accept is called: by then
// [Mesh.Handler] and the like have been.
func (m *Mesh) checkRules() {
	m.warnings.checking.Lock()
	defer m.warnings.checking.Unlock()
	engine := policy.EngineOf(m.policy)
	var all []string
	for _, l := range m.allListeners() {
		if !l.serving.Load() {
			continue
		}
		at := policy.Listener{Service: m.service, Port: l.port, Requests: m.defers(l.port), Tokens: m.cfg.Tokens != nil}
		for _, w := range engine.Check(at) {
			all = append(all, w.String())
		}
	}
	slices.Sort(all)
	for _, w := range m.warnings.set(all) {
		m.log.Warn("a policy that a listener can't evaluate", "warning", w, "rules_version", engine.Version())
	}
}

// set returns what of all is new.
func (w *warnings) set(all []string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if slices.Equal(all, w.all) {
		return nil
	}
	added := slices.DeleteFunc(slices.Clone(all), func(s string) bool { return slices.Contains(w.all, s) })
	w.all = all
	if w.waiting != nil {
		w.waiting(errWarnings)
	}
	return added
}

// valid leaves out what is not UTF-8, for [strings.Map].
func valid(r rune) rune {
	if r == utf8.RuneError {
		return -1
	}
	return r
}

// report adds the warnings to a poll. The context that it returns ends, with errWarnings as its cause, when there are
// others.
func (w *warnings) report(ctx context.Context, q url.Values) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.all[:min(len(w.all), wire.MaxWarnings)] {
		q.Add("warning", strings.Map(valid, s[:min(len(s), wire.MaxWarning)]))
	}
	w.waiting = cancel
	return ctx, func() { cancel(nil) }
}
