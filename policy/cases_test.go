package policy_test

import (
	"bufio"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/intramesh/mesh/policy"
)

// wantCases is how many published cases there are at least, not counting those of cases_http_test.go.
const wantCases = 600

// TestPublishedCases decides what is in testdata/cases: what the documentation of other systems, and their advisories, say
// about a request, in our rules. Each line of such a file is one of
//
//	source TEXT                where the following cases come from: document and section
//	rule JSON                  one rule, decided as an allow and as a deny
//	both|none|allow|deny REQ   as which of the two it matches: two cases
//	policies                   several documents
//	ACTION[-dryrun] NAME SERVICE [JSON RULE]…
//	=> allow NAME[RULE] REQ    what they decide together, and by which rule
//	=> deny [NAME[RULE]] REQ
//	refuse "WORDS" JSON        a rule that is not accepted, with an error that has these words
//
// A request is any of the words from=, ip=, to=, port=, host=, h:HEADER= (l: for a name that stays in lower case, as gRPC's
// metadata does), and one of raw, deferred, "grpc METHOD", "METHOD PATH". It is orders at 10.1.2.3 calling payments by
// default; "-" is none. Words may be quoted. A comment says where our semantics are others on purpose ("differs").
func TestPublishedCases(t *testing.T) {
	files, err := filepath.Glob("testdata/cases/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	total := 0
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txt"), func(t *testing.T) {
			f, err := os.Open(name)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			c := caseFile{t: t, name: name}
			lines := bufio.NewScanner(f)
			for c.line = 1; lines.Scan(); c.line++ {
				if s := strings.TrimSpace(lines.Text()); s != "" && s[0] != '#' {
					c.read(s)
				}
			}
			if err := lines.Err(); err != nil {
				t.Fatal(err)
			}
			t.Logf("%d cases", c.cases)
			total += c.cases
		})
	}
	if total < wantCases {
		t.Errorf("%d cases, want at least %d", total, wantCases)
	}
}

type caseFile struct {
	t           *testing.T
	name        string
	line, cases int
	source      string
	// The rule or the documents that are being decided.
	asAllow, asDeny *policy.Engine
	documents       []string
	together        *policy.Engine
}

func (c *caseFile) errorf(format string, args ...any) {
	c.t.Helper()
	c.t.Errorf("%s:%d (%s): %s", c.name, c.line, c.source, fmt.Sprintf(format, args...))
}

func (c *caseFile) read(s string) {
	word, rest, _ := strings.Cut(s, " ")
	if c.source == "" && word != "source" {
		c.t.Fatalf("%s:%d: a case without its source", c.name, c.line)
	}
	switch word {
	case "source":
		c.source = rest
	case "rule":
		c.asAllow = engine(c.t, doc("rule", "*", "allow", `"rules":[`+rest+`]`))
		c.asDeny = engine(c.t, doc("all", "*", "allow", `"rules":[{}]`), doc("rule", "*", "deny", `"rules":[`+rest+`]`))
	case "both", "none", "allow", "deny":
		if c.asAllow == nil {
			c.document(word, rest)
			return
		}
		c.matches(word, c.request(rest))
	case "policies":
		c.asAllow, c.documents, c.together = nil, nil, nil
	case "allow-dryrun", "deny-dryrun", "audit":
		c.document(word, rest)
	case "=>":
		c.decides(rest)
	case "refuse":
		quoted, err := strconv.QuotedPrefix(rest)
		if err != nil {
			c.t.Fatalf("%s:%d: %v", c.name, c.line, err)
		}
		c.refuses(strings.Trim(quoted, `"`), rest[len(quoted):])
	default:
		c.t.Fatalf("%s:%d: unknown %q", c.name, c.line, word)
	}
}

func (c *caseFile) document(action, rest string) {
	spec := ""
	if a, ok := strings.CutSuffix(action, "-dryrun"); ok {
		action, spec = a, `"mode":"dryrun",`
	}
	parts := strings.SplitN(rest, " ", 3)
	rules := ""
	if len(parts) == 3 {
		rules = strings.ReplaceAll(parts[2], "} {", "},{")
	}
	c.documents = append(c.documents, doc(parts[0], parts[1], policy.Action(action), spec+`"rules":[`+rules+`]`))
	c.together = nil
}

func (c *caseFile) matches(want string, r *policy.Request) {
	c.cases += 2
	allow, deny := c.asAllow.Authorize(c.t.Context(), r), c.asDeny.Authorize(c.t.Context(), r)
	if got := allow.Verdict == policy.Allow; got != (want == "both" || want == "allow") {
		c.errorf("as an allow: %v", allow)
	}
	if got := deny.Verdict == policy.Deny; got != (want == "both" || want == "deny") {
		c.errorf("as a deny: %v", deny)
	}
}

func (c *caseFile) decides(s string) {
	if c.together == nil {
		c.together = engine(c.t, c.documents...)
	}
	c.cases++
	verdict, rest, _ := strings.Cut(s, " ")
	by := ""
	if first, others, _ := strings.Cut(rest, " "); strings.HasSuffix(first, "]") {
		by, rest = first, others
	}
	d := c.together.Authorize(c.t.Context(), c.request(rest))
	got := ""
	if d.Rule >= 0 {
		got = fmt.Sprintf("%s[%d]", d.Policy, d.Rule)
	}
	if d.Verdict.String() != verdict || got != by {
		c.errorf("got %v, want %s %s", d, verdict, by)
	}
}

func (c *caseFile) refuses(want, rule string) {
	c.cases++
	for _, action := range []policy.Action{"allow", "deny"} {
		_, err := policy.Parse("case", []byte(doc("p", "payments", action, `"rules":[`+rule+`]`)))
		var pe *policy.ParseError
		if !errors.As(err, &pe) || !strings.Contains(err.Error(), want) {
			c.errorf("got %v, want an error with %q", err, want)
		}
	}
}

func (c *caseFile) request(s string) *policy.Request {
	c.t.Helper()
	words := c.words(s)
	r := request(c.t, nil)
	r.Host = "payments"
	var plain []string
	for _, w := range words {
		key, value, ok := strings.Cut(w, "=")
		switch {
		case !ok || strings.HasPrefix(key, "/"):
			plain = append(plain, w)
		case key == "from":
			r.Source = id(c.t, strings.TrimPrefix(value, "-"))
		case key == "ip" && value == "-":
			r.SourceAddr = netip.Addr{}
		case key == "ip":
			r.SourceAddr = netip.MustParseAddr(value)
		case key == "to":
			r.Destination = value
		case key == "port":
			r.Port = value
		case key == "host":
			r.Host = value
		case strings.HasPrefix(key, "h:"):
			r.Header.Add(key[2:], value)
		case strings.HasPrefix(key, "l:"):
			r.Header[key[2:]] = append(r.Header[key[2:]], value)
		default:
			c.t.Fatalf("%s:%d: unknown %q", c.name, c.line, w)
		}
	}
	switch {
	case len(plain) == 1 && plain[0] == "raw":
	case len(plain) == 1 && plain[0] == "deferred":
		r.Deferred = true
	case len(plain) == 2 && plain[0] == "grpc":
		r.Layer, r.GRPCMethod = policy.LayerGRPC, plain[1]
	case len(plain) == 2:
		r.Layer, r.Method, r.Path = policy.LayerHTTP, plain[0], plain[1]
	default:
		c.t.Fatalf("%s:%d: not a request: %q", c.name, c.line, s)
	}
	if r.Layer == policy.LayerConnection {
		r.Header, r.Host = http.Header(nil), ""
	}
	return r
}

// words splits at spaces, but not within quotes.
func (c *caseFile) words(s string) []string {
	var out []string
	for s = strings.TrimSpace(s); s != ""; s = strings.TrimLeft(s, " ") {
		if quoted, err := strconv.QuotedPrefix(s); err == nil {
			out, s = append(out, quoted[1:len(quoted)-1]), s[len(quoted):]
			continue
		}
		w, rest, _ := strings.Cut(s, " ")
		out, s = append(out, w), rest
	}
	return out
}
