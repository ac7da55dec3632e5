package kubernetes

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/intramesh/mesh/discovery/internal/remote"
)

// See kubernetes.io/docs/reference/using-api/api-concepts for lists in chunks, watches, bookmarks and 410 Gone.

const (
	// pageSize is how many slices a list brings at a time; a slice has at most 1,000 endpoints, in practice 100.
	pageSize = 250
	// maxPage and maxEvent bound what is decoded at once, maxSlices what is held.
	maxPage   = 64 << 20
	maxEvent  = 8 << 20
	maxSlices = 100_000
	// listTimeout bounds one page. A watch lasts between one and two times watchTime.
	listTimeout = 30 * time.Second
	watchTime   = 4 * time.Minute
	// restarts is how often a list whose continuation is gone begins anew.
	restarts = 3
)

// errGone says that the server no longer knows what changed since the given version.
var errGone = errors.New("too old")

const deleted = "DELETED"

// event is a change of one slice.
type event struct {
	kind   string
	object slice
}

// watcher hears what a watch brings.
type watcher struct {
	started func()
	event   func(event)
}

// api talks to the API server.
type api struct {
	cfg  *Config
	base *url.URL

	ca     []byte // what client trusts
	client *http.Client
}

// renew makes a new client when the authorities changed.
func (a *api) renew() error {
	pool, pem, err := remote.Roots(a.cfg.CAFile)
	if err != nil {
		return err
	}
	if a.client == nil || !bytes.Equal(pem, a.ca) {
		a.close()
		a.ca = pem
		a.client = &http.Client{Transport: remote.Transport(&tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}), CheckRedirect: remote.Stay}
	}
	return nil
}

func (a *api) close() {
	if a.client != nil {
		a.client.CloseIdleConnections()
	}
}

// get asks for slices. The caller closes the body. An error of status 410 is errGone.
func (a *api) get(ctx context.Context, query url.Values) (*http.Response, error) {
	if err := a.renew(); err != nil {
		return nil, err
	}
	token, err := remote.Token(a.cfg.TokenFile)
	if err != nil {
		return nil, err
	}
	u := a.base.JoinPath("apis/discovery.k8s.io/v1")
	if !a.cfg.AllNamespaces {
		u = u.JoinPath("namespaces", a.cfg.Namespace)
	}
	u = u.JoinPath("endpointslices")
	if a.cfg.Selector != "" {
		query.Set("labelSelector", a.cfg.Selector)
	}
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "intramesh-mesh")
	resp, err := a.client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	var s status
	_ = remote.Decode(resp.Body, 64<<10, &s) // else there is no message
	return nil, s.error(resp)
}

// status is a metav1.Status.
type status struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

func (s status) error(resp *http.Response) error {
	err := remote.Status(resp, s.Message)
	if s.Code != 0 {
		err.Code = s.Code
	}
	if err.Code == http.StatusGone {
		return fmt.Errorf("%w: %w", errGone, err)
	}
	return err
}

// list returns all slices, and the version of the list, from which a watch goes on.
func (a *api) list(ctx context.Context) (all []slice, version string, err error) {
	for range restarts {
		if all, version, err = a.pages(ctx); !errors.Is(err, errGone) {
			return all, version, err
		}
	}
	return nil, "", err
}

func (a *api) pages(ctx context.Context) (all []slice, version string, err error) {
	for next := ""; ; {
		page, err := a.page(ctx, next)
		if err != nil {
			return nil, "", fmt.Errorf("list: %w", err)
		}
		if all = append(all, page.Items...); len(all) > maxSlices {
			return nil, "", fmt.Errorf("list: more than %d slices: restrict them with a selector", maxSlices)
		}
		// All pages are of the first one's version.
		if next = page.Metadata.Continue; next == "" {
			return all, page.Metadata.ResourceVersion, nil
		}
	}
}

// page is a part of a list.
type page struct {
	Metadata struct {
		ResourceVersion string `json:"resourceVersion"`
		Continue        string `json:"continue"`
	} `json:"metadata"`
	Items []slice `json:"items"`
}

func (a *api) page(ctx context.Context, next string) (*page, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	query := url.Values{"limit": {strconv.Itoa(pageSize)}}
	if next != "" {
		query.Set("continue", next)
	}
	resp, err := a.get(ctx, query)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	p := new(page)
	if err := remote.Decode(resp.Body, maxPage, p); err != nil {
		return nil, err
	}
	if p.Metadata.ResourceVersion == "" {
		return nil, errors.New("the list has no resourceVersion")
	}
	return p, nil
}

// watch follows what happens after a version. It returns the last one it saw, and no error when the server ended
// the watch in good order.
func (a *api) watch(ctx context.Context, version string, w watcher) (string, error) {
	seconds := watchTime.Seconds() * (1 + rand.Float64()) //nolint:gosec // nothing to guess
	ctx, cancel := context.WithTimeout(ctx, time.Duration(seconds)*time.Second+listTimeout)
	defer cancel()
	resp, err := a.get(ctx, url.Values{
		"watch": {"true"}, "resourceVersion": {version}, "allowWatchBookmarks": {"true"}, "timeoutSeconds": {strconv.Itoa(int(seconds))},
	})
	if errors.Is(err, errGone) {
		version = ""
	}
	if err != nil {
		return version, fmt.Errorf("watch: %w", err)
	}
	defer resp.Body.Close()
	w.started()
	body := &remote.Budget{Reader: resp.Body}
	for dec := json.NewDecoder(body); ; {
		body.Left = maxEvent
		var e struct {
			Type   string          `json:"type"`
			Object json.RawMessage `json:"object"`
		}
		switch err := dec.Decode(&e); {
		case errors.Is(err, io.EOF):
			return version, nil
		case err != nil:
			return version, fmt.Errorf("watch: %w", err)
		}
		if e.Type == "ERROR" {
			var s status
			_ = json.Unmarshal(e.Object, &s) // else there is no message
			// Where it is not known what was missed, everything is listed.
			return "", fmt.Errorf("watch: %w", s.error(resp))
		}
		ev := event{kind: e.Type}
		if err := json.Unmarshal(e.Object, &ev.object); err != nil {
			return "", fmt.Errorf("watch: %w", err)
		}
		if v := ev.object.Metadata.ResourceVersion; v != "" {
			version = v
		}
		switch ev.kind {
		case "ADDED", "MODIFIED", deleted:
			w.event(ev)
		}
	}
}
