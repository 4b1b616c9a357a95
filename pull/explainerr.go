package pull

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	"moss/fail"
	"moss/oci"
)

// What went wrong, in words. Everything here runs after a failure: it may ask
// the registry once more, and may not guess.

const webPage = "a registry answers with JSON: this is perhaps a web server, or a proxy's or login page stands before the registry"

// registryWords returns what an error body says ({"errors":[…]},
// distribution-spec "Error Codes"), cleaned for a terminal.
func registryWords(body []byte, contentType string) string {
	var e struct {
		Errors  []struct{ Code, Message string } `json:"errors"`
		Details string                           `json:"details"` // token servers
	}
	if json.Unmarshal(body, &e) == nil {
		var parts []string
		for _, one := range e.Errors {
			parts = append(parts, cmp.Or(clip(one.Message, 200), clip(one.Code, 40)))
		}
		return clip(strings.Join(parts, "; ")+e.Details, 300)
	}
	if contentType == "" || strings.HasPrefix(contentType, "text/plain") {
		return clip(string(body), 200)
	}
	return "" // a page for browsers
}

// passing reports whether err, met before any answer to this request, may be
// different next time.
func (r *registry) passing(err error) bool {
	r.mu.Lock()
	contacted, choice := r.contacted, len(r.try) > 1
	r.mu.Unlock()
	if !contacted && choice && speaksOther(err) {
		return false
	}
	var dns *net.DNSError
	var netErr net.Error
	switch {
	case errors.As(err, &dns):
		return !dns.IsNotFound
	case errors.Is(err, syscall.ECONNREFUSED):
		return contacted // else nothing listens there
	case errors.Is(err, errStalled), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return true
	case errors.As(err, &netErr) && netErr.Timeout():
		return contacted
	}
	return false
}

// speaksOther reports whether err may come from speaking http to an https
// server or the other way round, or from nothing listening on one of the ports.
func speaksOther(err error) bool {
	var status *statusError
	if errors.As(err, &status) {
		return status.wantsHTTPS
	}
	var dns *net.DNSError
	var netErr net.Error
	var cert *tls.CertificateVerificationError
	switch {
	case errors.As(err, &dns), errors.As(err, &cert), errors.Is(err, errStalled), errors.Is(err, errDowngrade),
		errors.As(err, &netErr) && netErr.Timeout():
		return false
	}
	var transport *url.Error
	return errors.As(err, &transport)
}

// wantsHTTPS recognises how Go's and nginx's servers answer plain http on an
// https port.
func wantsHTTPS(code int, body []byte) bool {
	said := strings.ToLower(string(body))
	return code == http.StatusBadRequest && (strings.Contains(said, "http request to an https server") ||
		strings.Contains(said, "plain http request was sent to https port"))
}

// lesson turns what ended an attempt into an error that says why and what to
// do.
func (p *puller) lesson(ctx context.Context, err error) error {
	var have *fail.Error
	if errors.As(err, &have) && (have.Why != "" || have.Try != "") || ctx.Err() != nil {
		return &fail.Error{Op: "pull", On: p.src.ref.String(), Err: err}
	}
	e := &fail.Error{Op: "pull", On: p.src.ref.String(), Err: plainCause(err)}
	var status *statusError
	if errors.As(err, &status) {
		p.statusLesson(ctx, e, status)
	} else {
		p.r.connectionLesson(e, err)
	}
	return e
}

// plainCause leaves out net/http's `Get "https://…":`, whose address may be a
// signed one.
func plainCause(err error) error {
	var u *url.Error
	if errors.As(err, &u) && err == error(u) {
		return u.Err
	}
	return err
}

func (r *registry) connectionLesson(e *fail.Error, err error) {
	var dns *net.DNSError
	var op *net.OpError
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var record tls.RecordHeaderError
	var netErr net.Error
	insecure := fmt.Sprintf("--tls-verify=false, or in registries.conf: [[registry]] location = %q, insecure = true", r.host)
	switch {
	case errors.As(err, &op) && op.Op == "proxyconnect":
		e.Why = "the connection goes through the proxy that HTTPS_PROXY or HTTP_PROXY names, and that cannot be reached"
		e.Try = "unset the variable, or add " + r.host + " to NO_PROXY"
	case errors.As(err, &dns) && dns.IsNotFound:
		e.Why = fmt.Sprintf("DNS knows no host %s", clip(dns.Name, 100))
		if slices.Contains(knownRegistries, r.ref.Registry) {
			e.Try = "this machine's network, since that registry does exist: /etc/resolv.conf, and HTTPS_PROXY if there is a proxy"
		} else if near := nearest(r.ref.Registry, knownRegistries); len(near) > 0 {
			e.Try = fmt.Sprintf("did you mean %s?", strings.Join(near[:min(2, len(near))], " or "))
		} else {
			e.Try = fmt.Sprintf("check the spelling; if %q is no registry but an account on Docker Hub, write docker.io/%s/%s", r.ref.Registry, r.ref.Registry, r.repo)
		}
	case errors.As(err, &dns):
		e.Why = "the name server gave no answer: " + clip(dns.Err, 100)
		e.Try = "check the network, and /etc/resolv.conf"
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Why = "nothing listens on " + r.host
		if r.ref.Registry == "localhost" {
			e.Why = "localhost/… names images that were made here, none is called so, and no registry listens on this machine's port 80 or 443"
		}
	case errors.Is(err, http.ErrSchemeMismatch), errors.As(err, &record):
		e.Why, e.Try = r.host+" speaks plain http, and https is the rule for registries", insecure
	case errors.As(err, &unknown):
		e.Why = "its certificate is signed by an authority this machine does not know"
		e.Try = fmt.Sprintf("put that authority's certificate at ~/.config/containers/certs.d/%s/ca.crt; to go without checking, %s", r.host, insecure)
	case errors.As(err, &name), errors.As(err, &invalid):
		e.Why, e.Try = "the server's certificate is not valid for this: "+clip(err.Error(), 200), insecure
	case errors.Is(err, errDowngrade):
		e.Why, e.Try = "a login or a tag sent on over plain http could be read and changed on the way", insecure
	case errors.Is(err, errTooLarge):
		e.Why = "no real manifest is so large; it was not read further"
	case errors.As(err, &netErr) && netErr.Timeout():
		e.Why = "no answer from " + r.host + " in time"
	}
}

// statusLesson looks up why the registry said no.
func (p *puller) statusLesson(ctx context.Context, e *fail.Error, status *statusError) {
	login := fmt.Sprintf("log in with podman login %[1]s or docker login %[1]s; moss reads their files", p.src.ref.Registry)
	manifest := strings.Contains(status.path, "/manifests/")
	creds := p.r.auth.credentials()
	switch {
	case status.at != status.host:
		e.Why = status.at + ", where the registry sent us for the blob, does not give it"
	case status.code == http.StatusNotFound && status.said == "" && strings.HasPrefix(status.resp.Header.Get("Content-Type"), "text/html"):
		e.Why = webPage
	case status.code == http.StatusNotFound && manifest:
		e.Err = fmt.Errorf("%w: %w", ErrNotFound, status)
		p.missingLesson(ctx, e)
	case status.code == http.StatusNotFound:
		e.Why = "the manifest names this blob and the registry does not have it: the image was pushed or mirrored only in part"
	case status.code == http.StatusUnauthorized && creds.none():
		e.Why = "the registry wants a login for this repository, and there is none for it in " + strings.Join(p.s.authFiles(), ", ")
		if p.src.ref.Registry == oci.DefaultRegistry {
			e.Err = fmt.Errorf("%w, or it is private: %w", ErrNotFound, status)
			e.Why = "Docker Hub says the same of private repositories and of those that do not exist; no login was found in " + strings.Join(p.s.authFiles(), ", ")
		}
		e.Try = "check the spelling; if the repository is private, " + login
	case status.code == http.StatusUnauthorized:
		e.Why = fmt.Sprintf("the registry does not accept the login%s from %s", asUser(creds), creds.from)
		e.Try = login
	case status.code == http.StatusForbidden && creds.none():
		e.Why = "anonymous users may not pull this"
		e.Try = login
	case status.code == http.StatusForbidden:
		e.Why = fmt.Sprintf("the login%s from %s may not pull this", asUser(creds), creds.from)
		e.Try = "ask the owner of the repository for leave to pull"
	case status.code == http.StatusTooManyRequests:
		e.Why = "the registry allows only so many pulls in a time"
		if status.retryAfter > 0 {
			e.Try = fmt.Sprintf("again in %v, after %s", status.retryAfter.Round(time.Second), time.Now().Add(status.retryAfter).Format("15:04:05"))
		}
		if creds.none() {
			e.Why += ", fewer to those who are not logged in"
			e.Try = strings.TrimPrefix(e.Try+"; "+login, "; ")
		}
	case status.passing():
		e.Why = "the registry is in trouble; nothing is wrong with what was asked"
	}
}

func asUser(c credentials) string {
	if c.user == "" {
		return ""
	}
	return " of " + c.user
}

// credentials returns what was found when the registry asked for a login.
func (a *authorizer) credentials() credentials {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.creds
}

// missingLesson finds out whether the repository or only the tag is missing.
func (p *puller) missingLesson(ctx context.Context, e *fail.Error) {
	ref := p.src.ref
	body, _, err := p.r.fetch(ctx, "tags/list?n=1000", "application/json", 4<<20)
	var status *statusError
	if errors.As(err, &status) && status.code == http.StatusNotFound {
		e.Why = fmt.Sprintf("%s has no repository %s", ref.Registry, ref.Repository)
		return
	}
	var list struct {
		Tags []string `json:"tags"`
	}
	if err != nil || json.Unmarshal(body, &list) != nil {
		return // listing is not allowed everywhere; then nothing is known
	}
	switch {
	case ref.Digest != "":
		e.Why = fmt.Sprintf("the repository %s exists and has no manifest of that digest", ref.Name())
	case len(list.Tags) == 0:
		e.Why = fmt.Sprintf("the repository %s exists and has no tags", ref.Name())
	default:
		e.Why = fmt.Sprintf("the repository %s exists and has no tag %s", ref.Name(), ref.Tag)
		near := nearest(ref.Tag, list.Tags)
		if len(near) == 0 {
			near = list.Tags
		}
		for i := range near[:min(5, len(near))] {
			near[i] = clip(near[i], 64)
		}
		e.Try = fmt.Sprintf("one of its %d tags, for example %s", len(list.Tags), strings.Join(near[:min(5, len(near))], ", "))
	}
}

// tokenLesson explains a token server's no.
func (r *registry) tokenLesson(server string, c credentials, err error) error {
	e := &fail.Error{Op: "get a token from", On: server, Err: plainCause(err)}
	var status *statusError
	if !errors.As(err, &status) {
		r.connectionLesson(e, err)
		return e
	}
	if status.code == http.StatusUnauthorized || status.code == http.StatusForbidden || status.code == http.StatusBadRequest {
		login := fmt.Sprintf("podman login %[1]s or docker login %[1]s", r.ref.Registry)
		if c.none() {
			e.Why, e.Try = "the registry wants a login for this repository, and none was found", login
		} else {
			e.Why, e.Try = fmt.Sprintf("the login%s from %s is not accepted", asUser(c), c.from), login
		}
	}
	return e
}

// knownRegistries are offered when a host does not exist.
var knownRegistries = []string{"docker.io", "ghcr.io", "quay.io", "gcr.io", "registry.k8s.io", "mcr.microsoft.com", "public.ecr.aws", "registry.gitlab.com", "registry.fedoraproject.org"}

// nearest returns those of names that look like s, the nearest first: a typing
// error or two away, or continuing it (12 → 12-slim).
func nearest(s string, names []string) []string {
	type scored struct {
		name string
		far  int
	}
	var near []scored
	for _, n := range names {
		if len(n) > 128 {
			continue
		}
		far := distance(s, n)
		if far > max(1, min(len(s), len(n))/3) {
			if !strings.HasPrefix(n, s) && !strings.HasPrefix(s, n) {
				continue
			}
			far += 2
		}
		near = append(near, scored{n, far})
	}
	slices.SortStableFunc(near, func(a, b scored) int { return cmp.Compare(a.far, b.far) })
	var out []string
	for _, n := range near {
		out = append(out, n.name)
	}
	return out
}

// distance is how many letters have to be changed, added or dropped
// (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}

// triedError is several places' answers.
type triedError struct {
	name string
	errs []error
}

func (t *triedError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s is not to be had from any of %d places", t.name, len(t.errs))
	for _, err := range t.errs {
		fmt.Fprintf(&b, "\n  - %v", err)
	}
	return b.String()
}

// Unwrap puts the last first: the registry itself, behind its mirrors.
func (t *triedError) Unwrap() []error {
	errs := slices.Clone(t.errs)
	slices.Reverse(errs)
	return errs
}

func joinTried(name string, errs []error) error {
	if len(errs) == 1 {
		return errs[0]
	}
	return &triedError{name: clip(name, 200), errs: errs}
}
