package identity_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"testing"
	"time"
)

// TestReplicas: enrolment and renewal go to a server of the CA that answers, whichever that is.
func TestReplicas(t *testing.T) {
	inBubble(t, func(t *testing.T, ca *fakeCA) {
		cfg := ca.config(ca.token("payments"), "")
		cfg.URL, cfg.Others = "https://gone.example:9000", []string{"https://also.gone.example", fakeURL}
		cfg.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			if address == "gone.example:9000" {
				<-ctx.Done() // a machine that is off
				return nil, ctx.Err()
			}
			if address == "also.gone.example:443" {
				return nil, errors.New("connection refused")
			}
			return ca.dial(ctx, network, address)
		}
		s := mustStepCA(t, cfg)
		before, err := s.GetX509SVID()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.SetOthers([]string{fakeURL, "http://x"}); err == nil {
			t.Error("a URL without TLS was taken")
		}
		if err := s.SetOthers([]string{fakeURL}); err != nil {
			t.Fatal(err)
		}
		// One that is up and can't: the next attempt is at another.
		ca.set(func() {
			ca.answer["/rekey"] = func(w http.ResponseWriter, _ *http.Request) {
				delete(ca.answer, "/rekey")
				refuse(w, http.StatusServiceUnavailable, "no quorum")
			}
		})
		time.Sleep(time.Until(before.Certificates[0].NotAfter) - time.Minute) //nolint:forbidigo // virtual time
		after, err := s.GetX509SVID()
		if err != nil || after.Certificates[0].Equal(before.Certificates[0]) {
			t.Errorf("not renewed: %v", err)
		}
	})
}
