package kubernetes_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/intramesh/mesh/discovery/kubernetes"
	"github.com/intramesh/mesh/internal/atomicfile"
)

type object = map[string]any

// An apiServer keeps EndpointSlices as kube-apiserver does: each change has a version, lists come in pages of one
// version, watches start at one, and old versions are compacted away.
type apiServer struct {
	*httptest.Server
	dir string // of the token's and the authorities' files

	mu        sync.Mutex
	version   int
	compacted int               // versions up to this one can't be watched from, nor continued
	objects   map[string]object // by namespace/name
	pages     map[int][]object  // what lists of a version continue with
	history   []change
	changed   chan struct{} // closed with each change
	drop      chan struct{} // closed to break all watches
	token     string
	cert      tls.Certificate
	asked     []string // "list", "page", "watch"
	intercept func(http.ResponseWriter, *http.Request) bool
}

type change struct {
	version int
	kind    string
	object  object
}

func newServer(t testing.TB) *apiServer {
	t.Helper()
	s := &apiServer{
		dir: t.TempDir(), version: 100, objects: make(map[string]object), pages: make(map[int][]object),
		changed: make(chan struct{}), drop: make(chan struct{}), token: "first",
	}
	s.Server = httptest.NewUnstartedServer(s)
	s.EnableHTTP2 = true
	s.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return &tls.Config{Certificates: []tls.Certificate{s.cert}, NextProtos: []string{"h2"}}, nil
	}}
	s.rotate(t)
	s.write(t, "token", s.token)
	s.StartTLS()
	t.Cleanup(func() {
		s.mu.Lock()
		close(s.drop)
		s.drop = nil
		s.mu.Unlock()
		s.Close()
	})
	return s
}

func (s *apiServer) write(t testing.TB, name, content string) {
	t.Helper()
	if err := atomicfile.Write(filepath.Join(s.dir, name), []byte(content+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// rotate makes a new authority, and a certificate by it.
func (s *apiServer) rotate(t testing.TB) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := selfSigned(t, key)
	block, _ := pem.Decode(certPEM)
	s.mu.Lock()
	s.cert = tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key}
	s.mu.Unlock()
	s.write(t, "ca.crt", string(certPEM))
}

// selfSigned returns a certificate in PEM that is its own authority.
func selfSigned(t testing.TB, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{{127, 0, 0, 1}},
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func (s *apiServer) config() kubernetes.Config {
	return kubernetes.Config{
		URL: s.URL, TokenFile: filepath.Join(s.dir, "token"), CAFile: filepath.Join(s.dir, "ca.crt"),
		Namespace: "default", StaleAfter: time.Millisecond,
	}
}

// put creates or replaces slices.
func (s *apiServer) put(all ...object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range all {
		kind := "ADDED"
		if _, there := s.objects[nameOf(o)]; there {
			kind = "MODIFIED"
		}
		s.change(kind, o)
		s.objects[nameOf(o)] = o
	}
}

func (s *apiServer) remove(names ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range names {
		o := maps.Clone(s.objects[n])
		o["metadata"] = maps.Clone(o["metadata"].(object))
		s.change("DELETED", o)
		delete(s.objects, n)
	}
}

func (s *apiServer) change(kind string, o object) {
	s.version++
	o["metadata"].(object)["resourceVersion"] = strconv.Itoa(s.version)
	s.history = append(s.history, change{s.version, kind, o})
	close(s.changed)
	s.changed = make(chan struct{})
}

// bookmark tells all watches the version that they are at.
func (s *apiServer) bookmark() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.change("BOOKMARK", object{"kind": "EndpointSlice", "metadata": object{}})
}

// compact forgets what was before now.
func (s *apiServer) compact() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.compacted, s.pages = s.version, make(map[int][]object)
}

// cut breaks all watches, without an end of the stream.
func (s *apiServer) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.drop)
	s.drop = make(chan struct{})
}

func (s *apiServer) requests(kind string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.asked {
		if a == kind {
			n++
		}
	}
	return n
}

// set changes the server between two requests.
func (s *apiServer) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func nameOf(o object) string {
	m := o["metadata"].(object)
	return m["namespace"].(string) + "/" + m["name"].(string)
}

func reply(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v)
}

func status(code int, message string) object {
	return object{"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message}
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	intercept, token := s.intercept, s.token
	s.mu.Unlock()
	if intercept != nil && intercept(w, r) {
		return
	}
	rest, ok := strings.CutPrefix(r.URL.Path, "/apis/discovery.k8s.io/v1/")
	var in string
	if ns, found := strings.CutPrefix(rest, "namespaces/"); found {
		in, rest, _ = strings.Cut(ns, "/")
		in += "/"
	}
	if !ok || rest != "endpointslices" || r.Method != http.MethodGet {
		reply(w, http.StatusNotFound, status(404, "no such path"))
		return
	}
	if r.Header.Get("Authorization") != "Bearer "+token {
		reply(w, http.StatusUnauthorized, status(401, "Unauthorized"))
		return
	}
	ours := func(o object) bool {
		labels, _ := o["metadata"].(object)["labels"].(object)
		k, v, _ := strings.Cut(r.FormValue("labelSelector"), "=")
		return strings.HasPrefix(nameOf(o), in) && (k == "" || labels[k] == v)
	}
	if r.FormValue("watch") == "true" {
		s.watch(w, r, ours)
		return
	}
	s.list(w, r, ours)
}

func (s *apiServer) list(w http.ResponseWriter, r *http.Request, ours func(object) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	limit, _ := strconv.Atoi(r.FormValue("limit"))
	version, from := s.version, 0
	if c := r.FormValue("continue"); c != "" {
		s.asked = append(s.asked, "page")
		if _, err := fmt.Sscanf(c, "v%d.%d", &version, &from); err != nil {
			reply(w, http.StatusBadRequest, status(400, "bad continue"))
			return
		}
		if s.pages[version] == nil {
			reply(w, http.StatusGone, status(410, "The provided continue parameter is too old"))
			return
		}
	} else {
		s.asked = append(s.asked, "list")
		var all []object
		for _, name := range slices.Sorted(maps.Keys(s.objects)) {
			if o := s.objects[name]; ours(o) {
				all = append(all, o)
			}
		}
		s.pages[version] = all
	}
	items := s.pages[version][from:]
	meta := object{"resourceVersion": strconv.Itoa(version)}
	if limit > 0 && len(items) > limit {
		items = items[:limit]
		meta["continue"] = fmt.Sprintf("v%d.%d", version, from+limit)
	}
	if items == nil {
		items = []object{}
	}
	reply(w, http.StatusOK, object{"kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1", "metadata": meta, "items": items})
}

func (s *apiServer) watch(w http.ResponseWriter, r *http.Request, ours func(object) bool) {
	version, err := strconv.Atoi(r.FormValue("resourceVersion"))
	seconds, err2 := strconv.Atoi(r.FormValue("timeoutSeconds"))
	if err != nil || err2 != nil || r.FormValue("allowWatchBookmarks") != "true" {
		reply(w, http.StatusBadRequest, status(400, "bad watch"))
		return
	}
	end := time.After(time.Duration(seconds) * time.Second)
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	s.mu.Lock()
	s.asked = append(s.asked, "watch")
	drop := s.drop
	if version < s.compacted {
		s.mu.Unlock()
		_ = enc.Encode(object{"type": "ERROR", "object": status(410, "too old resource version")})
		return
	}
	s.mu.Unlock()
	w.(http.Flusher).Flush()
	for {
		s.mu.Lock()
		var news []object
		for _, c := range s.history {
			if c.version > version && (c.kind == "BOOKMARK" || ours(c.object)) {
				news = append(news, object{"type": c.kind, "object": c.object})
			}
		}
		version = s.version
		changed := s.changed
		for _, n := range news {
			_ = enc.Encode(n)
		}
		s.mu.Unlock()
		w.(http.Flusher).Flush()
		select {
		case <-changed:
		case <-end:
			return
		case <-r.Context().Done():
			return
		case <-drop:
			panic(http.ErrAbortHandler)
		}
	}
}
