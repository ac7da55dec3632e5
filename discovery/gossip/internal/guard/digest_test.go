package guard_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/intramesh/mesh/discovery/gossip/internal/attack"
	"github.com/intramesh/mesh/discovery/gossip/internal/guard"
)

// state is a full exchange of members i to j, with incarnations of their own.
func state(incarnation func(i int) int, members ...int) []byte {
	var all [][]byte
	for _, i := range members {
		all = append(all, attack.State(fmt.Sprint("m", i), []byte{10, 0, 0, 1}, []byte{1}, attack.Versions(), incarnation(i), 0))
	}
	return attack.Exchange(len(all), all...)
}

func count(n int) (all []int) {
	for i := range n {
		all = append(all, i)
	}
	return all
}

func TestDigest(t *testing.T) {
	one := func(int) int { return 1 }
	newer := func(of int) func(int) int {
		return func(i int) int {
			if i == of {
				return 2
			}
			return 1
		}
	}
	all := count(2000)
	for name, c := range map[string]struct {
		ours, theirs []byte
		told, lacks  string // a member that must be among those told, and among those lacking
		atMost       int    // bytes of the answer
	}{
		"same":         {state(one, all...), state(one, all...), "", "", 100},
		"they know":    {state(one, all[1:]...), state(one, all...), "m0", "", 2000},
		"we know":      {state(one, all...), state(one, all[1:]...), "", "m0", 2000},
		"they newer":   {state(one, all...), state(newer(7), all...), "m7", "", 2000},
		"we newer":     {state(newer(7), all...), state(one, all...), "m7", "m7", 2000},
		"we are alone": {state(one, 5), state(one, all...), "m77", "", 1 << 20},
	} {
		request, err := guard.DigestRequest(c.ours)
		if err != nil || !guard.IsDigestRequest(request) || len(request) > 2100 {
			t.Fatalf("%s: request of %d bytes, %v", name, len(request), err)
		}
		answer, err := guard.AnswerDigest(request, c.theirs)
		if err != nil || len(answer) > c.atMost {
			t.Errorf("%s: answer of %d bytes, %v", name, len(answer), err)
		}
		theirs, lacks, err := guard.ReadDigest(answer, c.ours)
		if err != nil || !guard.IsState(theirs) {
			t.Fatalf("%s: %v", name, err)
		}
		if !bytes.Contains(theirs, []byte(c.told)) {
			t.Errorf("%s: %s is not told", name, c.told)
		}
		if guard.IsPush(lacks) != (c.lacks != "") || !bytes.Contains(lacks, []byte(c.lacks)) {
			t.Errorf("%s: they lack %q, want %s", name, lacks, c.lacks)
		}
	}
}

func FuzzReadDigest(f *testing.F) {
	ours := state(func(int) int { return 1 }, count(20)...)
	request, err := guard.DigestRequest(ours)
	if err != nil {
		f.Fatal(err)
	}
	answer, err := guard.AnswerDigest(request, state(func(int) int { return 2 }, count(30)...))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(answer)
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _, _ = guard.ReadDigest(b, ours) // must not panic
		_, _ = guard.AnswerDigest(b, ours)
	})
}
