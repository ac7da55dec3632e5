package policy_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/intramesh/mesh/policy"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// testKey returns a signing key; each n is another one.
func testKey(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func publicKeys(keys ...ed25519.PrivateKey) []ed25519.PublicKey {
	var out []ed25519.PublicKey
	for _, k := range keys {
		out = append(out, k.Public().(ed25519.PublicKey))
	}
	return out
}

// signed returns a bundle of prod.example, signed with testKey(1).
func signed(t testing.TB, version uint64, documents ...string) []byte {
	t.Helper()
	data, err := policy.Sign(&policy.Bundle{TrustDomain: prod, Version: version, Issued: time.Now(), Documents: parse(t, documents...)}, testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// signPayload signs any bytes in the way that Sign signs a bundle's.
func signPayload(t testing.TB, payload string, key ed25519.PrivateKey) []byte {
	t.Helper()
	sig, err := key.Sign(nil, []byte(payload), &ed25519.Options{Context: "intramesh policy bundle v1"})
	if err != nil {
		t.Fatal(err)
	}
	return header1(key, sig, payload)
}

func header1(key ed25519.PrivateKey, sig []byte, payload string) []byte {
	id := policy.KeyID(publicKeys(key)[0])
	return fmt.Appendf(nil, "mesh-bundle/1 %s %s\n%s", id, base64.StdEncoding.EncodeToString(sig), payload)
}

func TestBundleRoundTrip(t *testing.T) {
	issued := time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("", 3600))
	for _, docs := range [][]policy.Document{nil, parse(t, full, doc("p", "*", "deny", `"mode":"dryrun"`))} {
		b := &policy.Bundle{TrustDomain: prod, Version: 1<<64 - 1, Issued: issued, Documents: docs}
		data, err := policy.Sign(b, testKey(1))
		if err != nil {
			t.Fatal(err)
		}
		got, err := policy.Open(data, publicKeys(testKey(2), testKey(1)), prod)
		if err != nil {
			t.Fatal(err)
		}
		if got.TrustDomain != prod || got.Version != b.Version || !got.Issued.Equal(issued) ||
			len(got.Documents) != len(docs) || len(docs) > 0 && !reflect.DeepEqual(got.Documents, docs) {
			t.Errorf("got %+v, want %+v", got, b)
		}
	}
}

func TestSignRefuses(t *testing.T) {
	broken := parse(t, full)
	broken[0].Spec.Action = "permit"
	many := slices.Repeat(parse(t, doc("p", "x", "deny", "")), policy.MaxDocuments+1)
	for i := range many {
		many[i].Metadata.Name = fmt.Sprint("p", i)
	}
	values := slices.Repeat([]string{strings.Repeat("x", policy.MaxValueLen)}, policy.MaxValues)
	large := parse(t, doc("large", "x", "deny", ""))
	large[0].Spec.Rules = []policy.Rule{{When: slices.Repeat([]policy.Condition{{Key: "request.header.x", Values: values}}, 17)}}
	for name, tt := range map[string]struct {
		b   policy.Bundle
		key ed25519.PrivateKey
	}{
		"no version":      {policy.Bundle{TrustDomain: prod}, testKey(1)},
		"no trust domain": {policy.Bundle{Version: 1}, testKey(1)},
		"no key":          {policy.Bundle{TrustDomain: prod, Version: 1}, nil},
		"broken document": {policy.Bundle{TrustDomain: prod, Version: 1, Documents: broken}, testKey(1)},
		"name twice":      {policy.Bundle{TrustDomain: prod, Version: 1, Documents: parse(t, full, full)}, testKey(1)},
		"too many":        {policy.Bundle{TrustDomain: prod, Version: 1, Documents: many}, testKey(1)},
		"too large":       {policy.Bundle{TrustDomain: prod, Version: 1, Documents: large}, testKey(1)},
		"year 10000":      {policy.Bundle{TrustDomain: prod, Version: 1, Issued: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}, testKey(1)},
	} {
		if data, err := policy.Sign(&tt.b, tt.key); err == nil {
			t.Errorf("%s: signed %d bytes", name, len(data))
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	good := signed(t, 3, full)
	const empty = `{"trustDomain":"prod.example","version":3,"issued":"2026-01-02T03:04:05Z","documents":[]}`
	if _, err := policy.Open(signPayload(t, empty, testKey(1)), publicKeys(testKey(1)), prod); err != nil {
		t.Fatalf("the payload that the cases are made from is refused: %v", err)
	}
	payload := func(from, to string) []byte { return signPayload(t, strings.Replace(empty, from, to, 1), testKey(1)) }
	plain := ed25519.Sign(testKey(1), []byte(empty)) // no context
	newline := bytes.IndexByte(good, '\n')
	tests := []struct {
		name string
		data []byte
		want string
	}{
		{"nothing", nil, "not a signed bundle"},
		{"no header", []byte(empty), "not a signed bundle"},
		{"header too long", append(bytes.Repeat([]byte("a"), 1000), '\n'), "not a signed bundle"},
		{"another format", []byte("mesh-bundle/2 a b\n{}"), "mesh-bundle/1"},
		{"damaged signature", bytes.Replace(good, good[newline-8:newline], []byte("********"), 1), "the signature is damaged"},
		{"short signature", header1(testKey(1), plain[:63], empty), "the signature is damaged"},
		{"unknown key", signPayload(t, empty, testKey(9)), "is unknown"},
		{"signed for something else", header1(testKey(1), plain, empty), "does not hold"},
		{"another key's name", bytes.Replace(signPayload(t, empty, testKey(9)),
			[]byte(policy.KeyID(publicKeys(testKey(9))[0])), []byte(policy.KeyID(publicKeys(testKey(1))[0])), 1), "does not hold"},
		{"tampered", bytes.Replace(good, []byte(`"allow"`), []byte(`"audit"`), 1), "does not hold"},
		{"cut off", good[:len(good)-1], "does not hold"},
		{"longer", append(bytes.Clone(good), '\n'), "does not hold"},
		{"too large", make([]byte, 16<<20+1), "larger than"},
		{"other trust domain", payload("prod.example", "prod.example.evil"), `for the trust domain "prod.example.evil"`},
		{"no trust domain", payload("prod.example", ""), "trust domain"},
		{"no version", payload(`"version":3,`, ""), "version is missing"},
		{"negative version", payload(`:3,`, ":-3,"), "version: \"-3\" is not a whole number"},
		{"fraction", payload(`:3,`, ":3.0,"), "is not a whole number"},
		{"no time", payload("2026-", "x"), "issued"},
		{"unknown field", payload(`"issued"`, `"routes":[],"issued"`), "routes: unknown field"},
		{"field twice", payload(`"issued"`, `"version":9,"issued"`), "version: the field is there twice"},
		{"two payloads", payload(`[]}`, `[]}{}`), "2 JSON values"},
		{"document of the future", payload(`[]`, `[`+strings.Replace(full, "services", "serviceAccounts", 1)+`]`), "serviceAccounts: unknown field"},
		{"mode of the future", payload(`[]`, `[`+strings.Replace(full, `"enforce"`, `"rehearse"`, 1)+`]`), "spec.mode: want enforce or dryrun"},
		{"document twice", payload(`[]`, `[`+full+`,`+full+`]`), "is taken by"},
	}
	for _, tt := range tests {
		b, err := policy.Open(tt.data, publicKeys(testKey(1)), prod)
		if b != nil || err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, %v; want an error with %q", tt.name, b, err, tt.want)
		}
		unverified := strings.Contains(tt.want, "does not hold") || strings.Contains(tt.want, "is unknown")
		if errors.Is(err, policy.ErrNotVerified) != unverified {
			t.Errorf("%s: is ErrNotVerified: %v", tt.name, !unverified)
		}
	}
	if _, err := policy.Open(good, []ed25519.PublicKey{nil, {1, 2}}, prod); !errors.Is(err, policy.ErrNotVerified) {
		t.Errorf("keys of a wrong size: got %v", err)
	}
	if _, err := policy.Open(good, publicKeys(testKey(1)), spiffeid.TrustDomain{}); err == nil {
		t.Error("no trust domain to check against, and yet it opens")
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(signed(f, 1, full), []byte(full))
	f.Add([]byte("mesh-bundle/1 a b\n{}"), []byte(`{"trustDomain":"prod.example","version":3,"issued":"2026-01-02T03:04:05Z","documents":[]}`))
	f.Fuzz(func(t *testing.T, data, payload []byte) {
		keys := publicKeys(testKey(1))
		// Nobody but the holder of the key makes a bundle; the corpus has its own.
		if _, err := policy.Open(data, keys, prod); err == nil && !bytes.HasPrefix(data, []byte("mesh-bundle/1 "+policy.KeyID(keys[0]))) {
			t.Fatalf("a forged bundle opens: %q", data)
		}
		// What the holder signs is read without a panic, and compiles if it opens.
		if b, err := policy.Open(signPayload(t, string(payload), testKey(1)), keys, prod); err == nil {
			if _, err := policy.Compile(b); err != nil {
				t.Fatalf("an open bundle does not compile: %v", err)
			}
		}
	})
}
