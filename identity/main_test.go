package identity_test

import (
	"testing"

	"github.com/intramesh/mesh/internal/testca"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newCA(t *testing.T, td string) *testca.CA {
	t.Helper()
	ca, err := testca.New(spiffeid.RequireTrustDomainFromString(td))
	if err != nil {
		t.Fatal(err)
	}
	return ca
}
