package identity_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh/identity"
	"github.com/intramesh/mesh/internal/wire"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

var payments = spiffeid.RequireFromString("spiffe://prod.example/payments")

const joinToken = wire.JoinTokenPrefix + "abcdefghij.SECRET"

func TestJoinToken(t *testing.T) {
	inBubble(t, func(t *testing.T, ca *fakeCA) {
		dir := t.TempDir()
		ca.proof = joinToken
		cfg := ca.config(joinToken, dir)
		_, err := identity.NewStepCA(t.Context(), cfg)
		wantError(t, err, "nothing says which service this is")
		cfg.ID = payments
		if svid, err := mustStepCA(t, cfg).GetX509SVID(); err != nil || svid.ID != payments {
			t.Fatalf("%v, %v", svid, err)
		}
		// A restart goes on from the state, whatever became of the token.
		ca.set(func() { ca.proof = "" })
		mustStepCA(t, cfg)
		if n := len(ca.seen(wire.PathEnrol)); n != 1 {
			t.Errorf("the token was used %d times", n)
		}
		cfg.ID = spiffeid.RequireFromString("spiffe://prod.example/orders")
		_, err = identity.NewStepCA(t.Context(), cfg)
		wantError(t, err, "payments", "orders", "a directory of its own")
		cfg.ID, cfg.Token = payments, ""
		mustStepCA(t, cfg)
		cfg.Dir = ""
		_, err = identity.NewStepCA(t.Context(), cfg)
		wantError(t, err, "no token to get one")
	})
}

// TestJoinTokenRefused: the control plane's words reach the operator, at once, and the token does not.
func TestJoinTokenRefused(t *testing.T) {
	inBubble(t, func(t *testing.T, ca *fakeCA) {
		cfg := ca.config(joinToken, "")
		cfg.ID = payments
		_, err := identity.NewStepCA(t.Context(), cfg)
		wantError(t, err, "refused enrolment (401): the token was used already")
		if strings.Contains(err.Error(), "SECRET") {
			t.Errorf("the token is in %q", err)
		}
		cfg.Prove = identity.KubernetesToken("/nowhere")
		_, err = identity.NewStepCA(t.Context(), cfg)
		wantError(t, err, "only one can count")
		cfg.Token, cfg.EnrolURL = "", "http://10.0.0.1"
		_, err = identity.NewStepCA(t.Context(), cfg)
		wantError(t, err, "the control plane's URL", "not of the form https://")
	})
}

// TestLostAnswer: while there is no answer the same request is sent again, so that a one-time token is not
// wasted.
func TestLostAnswer(t *testing.T) {
	inBubble(t, func(t *testing.T, ca *fakeCA) {
		ca.proof = joinToken
		fails := 2
		ca.answer["/sign"] = func(w http.ResponseWriter, _ *http.Request) {
			if fails--; fails == 0 {
				delete(ca.answer, "/sign")
			}
			refuse(w, http.StatusServiceUnavailable, "not now")
		}
		cfg := ca.config(joinToken, "")
		cfg.ID = payments
		mustStepCA(t, cfg)
		keys := map[string]bool{}
		for _, c := range ca.seen("/sign") {
			keys[c.key] = true
		}
		if len(keys) != 1 {
			t.Errorf("%d different requests", len(keys))
		}
	})
}

// TestEnrolAgain: a process that slept past the end of its certificate enrols anew when it can.
func TestEnrolAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, ca *fakeCA) {
		ca.proof = joinToken
		cfg := ca.config(joinToken, t.TempDir())
		cfg.ID = payments
		s := mustStepCA(t, cfg)
		ca.down.Store(true)
		<-time.After(25 * time.Hour)
		if _, err := s.GetX509SVID(); err == nil {
			t.Fatal("a certificate after its end")
		}
		ca.down.Store(false)
		<-time.After(6 * time.Minute)
		synctest.Wait()
		svid, err := s.GetX509SVID()
		if err != nil || time.Until(svid.Certificates[0].NotAfter) < 23*time.Hour {
			t.Errorf("%v, %v", svid, err)
		}
		if n := len(ca.seen(wire.PathEnrol)); n != 2 {
			t.Errorf("%d enrolments", n)
		}
	})
}
