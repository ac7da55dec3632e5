package ca_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// FuzzSign: whatever a stranger sends, it is refused and nothing breaks.
func FuzzSign(f *testing.F) {
	c, end := open(f, newDir(f), 0)
	f.Cleanup(func() {
		if err := end(); err != nil {
			f.Error(err)
		}
	})
	// A good token, so that what comes after it is reached too; no seed has a CSR to go with it.
	token, err := c.Token("orders", time.Hour, "127.0.0.1:443")
	if err != nil {
		f.Fatal(err)
	}
	f.Add("/sign", `{"csr":"-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n","ott":"TOKEN"}`)
	f.Add("/sign", `{"csr":"","ott":"TOKEN","notAfter":"24h","templateData":{}}`)
	f.Add("/1.0/rekey", `{"csr":null}`)
	f.Add("/renew", ``)
	f.Add("/sign", `{"ott":"a.b.c"}{}`)
	h := c.Server(nil).Handler
	f.Fuzz(func(t *testing.T, path, body string) {
		if !strings.HasPrefix(path, "/") || strings.ContainsAny(path, " ?#%\x7f") || strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r > '~' }) {
			return // no request line has it
		}
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, strings.NewReader(strings.ReplaceAll(body, "TOKEN", token)))
		r.TLS = nil
		h.ServeHTTP(w, r)
		if w.Code < 400 || w.Code >= 500 {
			t.Errorf("%s %q: %d %s", path, body, w.Code, w.Body)
		}
	})
}
