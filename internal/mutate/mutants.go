package main

// Which tests have to notice. The published cases alone must find a broken matcher.
const (
	cases  = "TestPublishedCases"
	wire   = "TestPathSpellings|TestHostSpellings|TestMethodSpellings|TestHeaderLines|TestClaimsOfIdentity"
	model  = "TestModel$"
	oracle = "TestEngineAgreesWithNaiveEvaluator"
	bundle = "TestOpen"
	early  = "TestEarly|TestSyncerIsEarly"
	pin    = "TestPin"
)

var mutants = []mutant{ //nolint:gochecknoglobals // a constant list
	// The three values.
	{"a deny without an identity does not match", "policy/match.go", "q.unknownPeer = a == ActionDeny", "q.unknownPeer = false", cases},
	{"an allow without an identity matches", "policy/match.go", "q.unknownPeer = a == ActionDeny", "q.unknownPeer = true", cases},
	{"a deny of unseen requests does not match", "policy/match.go", "(a == ActionDeny) != deferred && a != ActionAudit", "deferred", cases},
	{"an allow of unseen requests matches", "policy/match.go", "(a == ActionDeny) != deferred && a != ActionAudit", "deferred || !deferred", cases},
	{"deferred is not looked at", "policy/match.go", "(a == ActionDeny) != deferred && a != ActionAudit", "a == ActionDeny || deferred && false", cases},
	{"one line of a header is enough for an allow", "policy/match.go", "q.anyValue = a != ActionAllow", "q.anyValue = true", cases},
	{"all lines of a header are needed for a deny", "policy/match.go", "q.anyValue = a != ActionAllow", "q.anyValue = false", cases},
	{"an absent header has every value", "policy/header.go", "return c.values == nil", "return true", cases},
	{"a joined line is one value", "policy/header.go", "n > 0 && c.matchElements", "false && c.matchElements", cases},
	{"a line that an allow names is taken apart", "policy/header.go", "case !anyOf && values.names(line):", "case false:", cases},
	{"a line that a deny leaves out is taken apart", "policy/header.go", "case anyOf && c.notValues.names(line):", "case false:", cases},
	{"a header of any size is known", "policy/header.go", "if left -= n; left < 0 {", "if left -= n; false {", "TestRule$"},
	{"one of several values will do, whatever the others", "policy/claim.go", "return has && !not", "return has", "TestClaims$"},
	{"a claim that can't be compared is absent", "policy/claim.go", "return q.unclear()\n\t\t}\n\t\tv =", "return c.values == nil\n\t\t}\n\t\tv =", "TestClaims$"},
	{"a path that is none is known", "policy/match.go", `q.Layer&LayerHTTP != 0 && q.Path != "" && q.Path[0] == '/'`, "q.Layer&LayerHTTP != 0", cases},
	{"a gRPC method may start with a slash", "policy/match.go", ` && q.GRPCMethod[0] != '/'`, "", cases},
	// Who.
	{"trust domains are not looked at", "policy/match.go", `domain == e.trustDomain`, "true", cases},
	{"notServices is not looked at", "policy/match.go", "ours && s.notServices.match(q.service)", "false", cases},
	{"notTrustDomains and notValues are not looked at", "policy/match.go", " && !not.match(s)", "", cases},
	{"notIps is not looked at", "policy/match.go", " && !contains(not, addr)", "", cases},
	{"IPv4 in IPv6 stays what it is", "policy/match.go", `q.SourceAddr.Unmap().WithZone("")`, "q.SourceAddr", cases},
	{"a prefix of services is not looked up by segment", "policy/index.go", "if b := ix.prefix[name[:i+1]]; b != nil {\n\t\t\tif", "if b := ix.prefix[name]; b != nil {\n\t\t\tif", cases},
	// Values.
	{"exact is without case", "policy/pattern.go", "return s == p.text", "return strings.EqualFold(s, p.text)", cases},
	{"prefix is anywhere", "policy/pattern.go", "strings.HasPrefix(s, p.text)", "strings.Contains(s, p.text)", cases},
	{"suffix is anywhere", "policy/pattern.go", "strings.HasSuffix(s, p.text)", "strings.Contains(s, p.text)", cases},
	{"{name} takes an empty segment", "policy/pattern.go", "if n == 0 {\n\t\t\t\treturn false", "if n == 0 {\n\t\t\t\tcontinue", cases},
	{"a template ends early", "policy/pattern.go", `return path == ""`, "return true", cases},
	{"a suffix of a service is accepted", "policy/values.go", "case sh == shapeSuffix:", "case false:", cases},
	{"an unclean path is accepted", "policy/values.go", `strings.Contains(path, "//")`, "false", cases},
	// What decides.
	{"a deny of a wider scope is not looked at", "policy/scope.go", "if !s.denies {\n\t\t\t\tcontinue", "if !s.denies {\n\t\t\t\treturn nil", cases},
	{"dry run denies", "policy/scope.go", "a != ActionAudit && m != ModeDryRun", "a != ActionAudit", cases},
	{"large sets of rules forget those without a path", "policy/index.go", "return first(m.pathless, q)", "return nil", oracle},
	{"strangers are told why", "policy/engine.go", "scope.tell && q.ours", "scope.tell", "TestDenials"},
	{"callers are told why in any case", "policy/engine.go", "scope.tell && q.ours", "q.ours", "TestDenials"},
	{"early: a deny that might match is sure", "policy/early.go", ".surely())", ")", early},
	{"early: what is not known does not match an allow", "policy/early.go", "true, true, !named", "true, false, !named", early},
	{"early: callees with other rules are not asked", "policy/early.go", "e.Version() != callee", "false", early},
	{"early: an audit misses the call", "policy/early.go", "scope.recorded && scope.mightRecord(&q)", "false", early},
	{"early: rules are always fresh", "policy/syncer.go", "at == nil || !within(*at, time.Now(), freshFor)", "at == nil", early},
	{"a pin keeps old rules", "policy/pin.go", "e != rules.engine", "rules == nil", pin},
	{"a pin decides for any caller", "policy/pin.go", "r.Source != p.source || ", "", pin},
	{"any signature will do", "policy/bundle.go", "Context: bundleContext}) == nil {", "Context: bundleContext}) != nil {", bundle},
	// One canonical request.
	{"encoded slashes pass", "canonical.go", `strings.Contains(raw, "%2f")`, "false && raw == \"\"", wire},
	{"dot segments pass", "canonical.go", `case seg == "." || seg == "..":`, "case false:", wire},
	{"empty segments pass", "canonical.go", `case seg == "" && more:`, "case seg == \"\" && !more && rest != \"\":", wire},
	{"parameters pass", "canonical.go", "c == ';', ", "", wire},
	{"what is not UTF-8 passes", "canonical.go", "if !utf8.ValidString(p) {", "if !utf8.ValidString(\"\") {", wire},
	{"double encoding passes", "canonical.go", "isHex(p[i+1]) && isHex(p[i+2])", "isHex(p[i+1]) && p[i+2] == 0", wire},
	{"the case of a host counts", "canonical.go", "strings.ToLower(name)", "name", wire},
	{"the final dot of a host stays", "canonical.go", `strings.TrimSuffix(strings.ToLower(name), ".")`, "strings.ToLower(name)", wire},
	{"a host in a field of its own passes", "handler.go", `k == "Host" || `, "", wire},
	// Open connections and requests.
	{"open connections are not decided again", "recheck.go", "d := m.decided(ctx, r, &dec)", "d := (*DeniedError)(nil)\n\t_ = dec", model},
	{"open requests are not decided again", "recheck.go", "\tsc.recheckRequests(ctx)", "\t_ = ctx", model},
	{"a connection outlives its certificate", "serverconn.go", "next.Sub(now) + 10*time.Millisecond", "next.Sub(now) + time.Hour", model},
	{"a change of trust is not seen", "recheck.go", "\tif verify {", "\tif false {", model},
}
