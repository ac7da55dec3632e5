package control_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/intramesh/mesh/control"
	enrolment "github.com/intramesh/mesh/control/enrol"
	"go.yaml.in/yaml/v4"
)

func TestInitRefuses(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	if err := control.Init(dir, control.Settings{TrustDomain: "example.test"}); err == nil || !strings.Contains(err.Error(), "never overwritten") {
		t.Errorf("over another one: %v", err)
	}
	for _, s := range []control.Settings{
		{},
		{TrustDomain: "Example.test"},
		{TrustDomain: "10.0.0.1"},
		{TrustDomain: "a/b"},
		{TrustDomain: "a..b"},
		{TrustDomain: ".a"},
		{TrustDomain: "a."},
		{TrustDomain: "example.test", Advertise: "https://x"},
		{TrustDomain: "example.test", Listen: control.Listen{Mesh: "7441"}},
		{TrustDomain: "example.test", Listen: control.Listen{Mesh: "no.ip:7441"}},
		{TrustDomain: "example.test", CertificateLifetime: time.Second},
		{TrustDomain: "example.test", TokenLifetime: 1000 * time.Hour},
		{TrustDomain: "example.test", ProbeInterval: time.Millisecond},
	} {
		dir := t.TempDir()
		if err := control.Init(dir, s); err == nil {
			t.Errorf("%+v was accepted", s)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%+v: left %v, %v", s, left, err)
		}
	}
}

// TestSettingsKeepEnrolment: who enrols without a token is part of what mesh replica copies.
func TestSettingsKeepEnrolment(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "mesh")
	want := enrolment.Settings{X509: []enrolment.X509{{RootsFile: "corp.pem", Names: []enrolment.Name{{DNS: "*.corp.example", Service: "legacy"}}}}}
	if err := control.Init(dir, control.Settings{TrustDomain: "example.test", Enrol: want}); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join(dir, "mesh.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var got control.Settings
	if err := yaml.Load(content, &got, yaml.WithKnownFields()); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got.Enrol, want) {
		t.Errorf("wrote %+v, want %+v", got.Enrol, want)
	}
}

func TestSettingsAreStrict(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	path := filepath.Join(dir, "mesh.yaml")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for change, want := range map[[2]string]string{
		{"advertise:", "advertize:"}:                                       "mesh.yaml:3:1: ",
		{"certificate_lifetime: 24h", "certificate_lifetime: tomorrow"}:    "mesh.yaml:10:",
		{"certificate_lifetime: 24h", "certificate_lifetime: 1s"}:          "certificate_lifetime: 1s is below",
		{"trust_domain: example.test", "trust_domain: other.test"}:         "can't be changed",
		{"trust_domain: example.test", "trust_domain: a\ntrust_domain: b"}: "mesh.yaml:3:1: ",
	} {
		if err := os.WriteFile(path, []byte(strings.Replace(string(good), change[0], change[1], 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := control.New(t.Context(), control.Config{Dir: dir}); err == nil {
			t.Errorf("%q: accepted, %v", change[1], s.Close())
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", change[1], err, want)
		}
	}
	if _, err := control.New(t.Context(), control.Config{Dir: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "mesh init") {
		t.Errorf("an empty directory: %v", err)
	}
}
