package dns_test

import (
	"testing"

	miekg "github.com/miekg/dns"

	"github.com/intramesh/mesh/discovery/dns"
)

// Whatever a server sends, what is taken from it is of the name and type that was asked for, as another implementation reads it.
func FuzzParse(f *testing.F) {
	q := new(miekg.Msg).SetQuestion("p.example.", miekg.TypeA)
	q.Id = 7
	m := new(miekg.Msg).SetReply(q)
	for _, text := range []string{"p.example. 60 IN CNAME q.example.", "q.example. 60 IN A 192.0.2.1", "x.example. 1 IN TXT y"} {
		rr, err := miekg.NewRR(text)
		if err != nil {
			f.Fatal(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	packed, err := m.Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(packed)
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := dns.Parse(7, "p.example.", miekg.TypeA, data)
		if err != nil || got == "" {
			return
		}
		var m miekg.Msg
		if m.Unpack(data) != nil {
			return // the other one is stricter
		}
		if !m.Response || m.Id != 7 || m.Rcode > miekg.RcodeNameError || m.Truncated {
			t.Errorf("took %q from\n%s", got, &m)
		}
	})
}
