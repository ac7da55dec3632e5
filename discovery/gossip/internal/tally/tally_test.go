package tally_test

import (
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/intramesh/mesh/discovery/gossip/internal/tally"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestBoundedRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all tally.Tally
		var lines, told uint64
		const each = 5000
		for range each { // for 50 s
			if n := all.Add(tally.Lie); n > 0 {
				lines++
				told += n
			}
			<-time.After(10 * time.Millisecond)
		}
		if n := all.Count(tally.Lie); n != each || lines != 5 || told != each-999 || all.Count(tally.Forged) != 0 {
			t.Errorf("counted %d, told of %d in %d lines", n, told, lines)
		}
		if all.Add(tally.Forged) != 1 {
			t.Error("the first of another kind is not told of at once")
		}
	})
}
