package pull

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"moss/explain"
	"moss/oci"
)

// The registry client: requests to one repository of one registry, by
// distribution-spec 1.1, "Pull". A request is made again when the connection
// breaks or the server is overloaded; it carries a login only when the server
// asked for one, and only to that server.

const (
	maxTries      = 6                // of one request, or of a transfer without progress
	maxRetryAfter = 90 * time.Second // told to wait longer, we give up and say until when
	maxRedirects  = 10
	acceptBlob    = "application/octet-stream, */*"
)

// Docker Hub's name is not its address.
const dockerHubHost = "registry-1.docker.io"

var (
	errStalled   = errors.New("no byte came for a minute")
	errDowngrade = errors.New("redirected from https to plain http")
)

// registry is a repository at a registry. Its methods may be called from
// several goroutines.
type registry struct {
	host, repo string
	ref        oci.Reference
	s          *surroundings
	explain    *explain.Narrator
	warn       func(error)
	client     *http.Client
	transports *transports
	unverified bool
	declared   bool // the user said so, or said not; loopback is a guess
	auth       *authorizer

	mu        sync.Mutex
	try       []string // schemes to try; the first is in use
	contacted bool     // it has answered: what fails from now on may be passing
}

func (s *surroundings) registry(src source, o Options, conf *registriesConf, warn func(error)) *registry {
	host := src.ref.Registry
	if host == oci.DefaultRegistry {
		host = dockerHubHost
	}
	r := &registry{host: host, repo: src.ref.Repository, ref: src.ref, s: s, explain: o.Explain, warn: warn}
	r.try, r.unverified = schemes(host, src.insecure, o.TLSVerify)
	r.declared = src.insecure != nil || o.TLSVerify != nil
	r.transports = &transports{s: s, registry: host, loose: r.loose}
	r.client = &http.Client{Transport: r.transports, CheckRedirect: r.redirect}
	r.auth = &authorizer{r: r, find: func(ctx context.Context) (credentials, error) {
		return s.credentials(ctx, src.ref, conf.helpers, warn)
	}}
	return r
}

// close drops idle connections, so that no goroutine of theirs stays.
func (r *registry) close() { r.transports.close() }

// url is the registry's base with the scheme in use.
func (r *registry) url() *url.URL {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &url.URL{Scheme: r.try[0], Host: r.host}
}

// loose reports whether host may go without https and verified certificates.
// That a registry on loopback may does not make its token server or where it
// redirects to safe: it may be a tunnel.
func (r *registry) loose(host string) bool {
	return r.unverified && (r.declared || isLoopback(host))
}

// redirect keeps the login from other hosts: net/http would still send it to
// subdomains. Blobs are verified wherever they come from, so they may.
func (r *registry) redirect(req *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return fmt.Errorf("redirected %d times", len(via))
	}
	for _, v := range via {
		if v.URL.Scheme == "https" && req.URL.Scheme != "https" && !r.loose(req.URL.Host) {
			return errDowngrade
		}
		if v.URL.Host != req.URL.Host || v.URL.Scheme != req.URL.Scheme {
			req.Header.Del("Authorization")
		}
	}
	if via[0].URL.Host != req.URL.Host {
		req.Header.Del("Authorization")
	}
	return nil
}

// get asks for path below /v2/REPOSITORY/ and returns a response of status
// 200 or 206, whose body the caller closes. waiting, if not nil, is called before
// each pause.
func (r *registry) get(ctx context.Context, method, path string, header http.Header, waiting func()) (*http.Response, error) {
	for asked := false; ; {
		base := r.url()
		req, err := http.NewRequestWithContext(ctx, method, base.String()+"/v2/"+r.repo+"/"+path, nil)
		if err != nil {
			return nil, err
		}
		for k, v := range header {
			req.Header[k] = v
		}
		sent, err := r.auth.header(ctx)
		if err != nil {
			return nil, err
		}
		if sent != "" {
			req.Header.Set("Authorization", sent)
		}
		resp, err := r.sendWaiting(req, waiting)
		var status *statusError
		switch {
		case err == nil:
			return resp, nil
		case errors.As(err, &status) && status.code == http.StatusUnauthorized && status.at == r.host && !asked:
			asked = true // a fresh token that is refused will not get better
			again, aerr := r.auth.challenged(ctx, status.resp, sent)
			if aerr != nil {
				return nil, aerr
			}
			if !again {
				return nil, err
			}
		case r.otherScheme(base.Scheme, err):
		default:
			return nil, err
		}
	}
}

// otherScheme decides whether err, met with scheme, says that the registry
// speaks the other one, and if it may be tried.
func (r *registry) otherScheme(scheme string, err error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.try[0] != scheme {
		return true // another request has already changed over
	}
	if len(r.try) < 2 || r.contacted || !speaksOther(err) {
		return false
	}
	r.try = r.try[1:]
	return true
}

// known reports whether the registry has ever answered.
func (r *registry) known() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.contacted
}

func (r *registry) answered() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.contacted = true
}

// send makes one request until it gets an answer worth giving: anything below
// 400 is returned, other statuses become a statusError.
func (r *registry) send(req *http.Request) (*http.Response, error) {
	return r.sendWaiting(req, nil)
}

func (r *registry) sendWaiting(req *http.Request, waiting func()) (*http.Response, error) {
	ctx := req.Context()
	for try := 0; ; try++ {
		resp, err := r.once(req)
		var wait time.Duration
		switch {
		case err != nil:
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			if try+1 >= maxTries || !r.passing(err) || try >= 2 && !r.known() {
				return nil, err
			}
			wait = backoff(try)
		default:
			if resp.StatusCode < 300 {
				r.answered()
				return resp, nil
			}
			status := newStatusError(resp)
			if !status.wantsHTTPS {
				r.answered()
			}
			err = status
			if !status.passing() || try+1 >= maxTries {
				return nil, err
			}
			wait = backoff(try)
			if status.retryAfter > 0 {
				wait = status.retryAfter
			} else if status.code == http.StatusTooManyRequests && try >= 2 {
				return nil, err // without a word about when, it is a quota
			}
			if wait > maxRetryAfter {
				return nil, err
			}
		}
		if waiting != nil {
			waiting()
		}
		if wait > 10*time.Second { // else silence would look like a hang
			r.warn(fmt.Errorf("%s: %w; asking again in %v", r.host, err, wait.Round(time.Second)))
		}
		r.explain.Step(explain.Step{What: "Wait and ask again", Call: fmt.Sprintf("sleep %v", wait.Round(10*time.Millisecond)), Why: clip(err.Error(), 200)})
		if err := r.s.sleep(ctx, wait); err != nil {
			return nil, err
		}
		if req.GetBody != nil {
			if req.Body, err = req.GetBody(); err != nil {
				return nil, err
			}
		}
	}
}

// once sends req and watches that something comes back.
func (r *registry) once(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	guard := time.AfterFunc(r.s.stall, func() { cancel(errStalled) })
	req = req.WithContext(ctx)
	req.Header.Set("User-Agent", "moss")
	resp, err := r.client.Do(req)
	guard.Stop()
	if err != nil {
		if errors.Is(context.Cause(ctx), errStalled) {
			err = errStalled
		}
		cancel(nil)
		return nil, err
	}
	resp.Body = &guardedBody{body: resp.Body, ctx: ctx, cancel: cancel, guard: guard, stall: r.s.stall}
	if r.explain.On() {
		// Without the query: a signed address is a key to the blob.
		call := fmt.Sprintf("%s %s://%s%s → %d", req.Method, req.URL.Scheme, req.URL.Host, req.URL.EscapedPath(), resp.StatusCode)
		if from := req.Header.Get("Range"); from != "" {
			call += " (" + from + ")"
		}
		if end := resp.Request.URL; end.Host != req.URL.Host {
			call += ", redirected to " + end.Host
		}
		what, why := narrate(req, resp)
		r.explain.Step(explain.Step{What: what, Call: call, Why: why, See: []string{"distribution-spec, \"Pull\""}})
	}
	return resp, nil
}

// narrate says in words what a request was for.
func narrate(req *http.Request, resp *http.Response) (what, why string) {
	path := req.URL.Path
	_, last, _ := strings.Cut(path[strings.LastIndexByte(path, '/')+1:], ":")
	switch {
	case resp.StatusCode == http.StatusUnauthorized:
		return "Be asked who we are", "the answer names what it wants: " + clip(strings.Join(resp.Header.Values("WWW-Authenticate"), ", "), 200)
	case strings.Contains(path, "/manifests/"):
		return "Ask for the manifest", "it lists config and layers by digest; a tag may point to an index of several manifests"
	case strings.Contains(path, "/blobs/"):
		return "Ask for blob " + oci.Digest("sha256:"+last).Short(), "a blob is named by the hash of its bytes, so it may come from anywhere"
	case strings.HasSuffix(path, "/tags/list"):
		return "Ask which tags there are", ""
	}
	return "Ask " + req.URL.Host, ""
}

// guardedBody is a response body that fails when no byte comes for stall. The
// watch runs only while somebody reads.
type guardedBody struct {
	body   io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	guard  *time.Timer
	stall  time.Duration
}

func (b *guardedBody) Read(p []byte) (int, error) {
	b.guard.Reset(b.stall)
	n, err := b.body.Read(p)
	b.guard.Stop()
	if err != nil && err != io.EOF && errors.Is(context.Cause(b.ctx), errStalled) {
		err = errStalled
	}
	return n, err
}

func (b *guardedBody) Close() error {
	b.guard.Stop()
	err := b.body.Close()
	b.cancel(nil)
	return err
}

// statusError is an answer of 300 and above.
type statusError struct {
	code       int
	method     string
	host, path string        // of what was asked for
	at         string        // the host that answered, after redirects
	said       string        // the registry's own words, cleaned
	retryAfter time.Duration // 0 when not told
	wantsHTTPS bool
	resp       *http.Response // its body is closed
}

func (e *statusError) Error() string {
	s := fmt.Sprintf("%d %s", e.code, http.StatusText(e.code))
	if e.said != "" {
		s += ": " + e.said
	}
	if e.at != e.host {
		s += " (from " + e.at + ")"
	}
	return s
}

// passing reports whether a later try may be answered differently.
func (e *statusError) passing() bool {
	switch e.code {
	case http.StatusTooManyRequests, http.StatusRequestTimeout, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// newStatusError reads what the registry says about resp, and closes it.
func newStatusError(resp *http.Response) *statusError {
	defer resp.Body.Close()
	first := resp.Request
	for first.Response != nil && first.Response.Request != nil {
		first = first.Response.Request
	}
	e := &statusError{code: resp.StatusCode, method: first.Method, host: first.URL.Host, path: first.URL.Path,
		at: resp.Request.URL.Host, resp: resp, retryAfter: parseRetryAfter(resp.Header.Get("Retry-After"), time.Now())}
	// Not more than a connection worth reusing: an error page can be any size.
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 16<<10))
	e.wantsHTTPS = wantsHTTPS(e.code, body)
	e.said = registryWords(body, resp.Header.Get("Content-Type"))
	return e
}

// parseRetryAfter reads seconds or a date (RFC 9110, Section 10.2.3).
func parseRetryAfter(v string, now time.Time) time.Duration {
	if v == "" {
		return 0
	}
	if secs, err := strconv.ParseUint(strings.TrimSpace(v), 10, 32); err == nil {
		return max(time.Duration(secs)*time.Second, time.Millisecond)
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(at.Sub(now), time.Millisecond)
	}
	return 0
}

// fetch returns the whole of a small document, at most limit bytes of it, and
// asks again when the transfer breaks.
func (r *registry) fetch(ctx context.Context, path, accept string, limit int) ([]byte, http.Header, error) {
	for try := 0; ; try++ {
		resp, err := r.get(ctx, http.MethodGet, path, http.Header{"Accept": {accept}}, nil)
		if err != nil {
			return nil, nil, err
		}
		body, err := readLimited(resp.Body, limit)
		resp.Body.Close()
		switch {
		case err == nil:
			return body, resp.Header, nil
		case ctx.Err() != nil:
			return nil, nil, context.Cause(ctx)
		case errors.Is(err, errTooLarge) || try+1 >= maxTries:
			return nil, nil, err
		}
		if err := r.s.sleep(ctx, backoff(try)); err != nil {
			return nil, nil, err
		}
	}
}

var errTooLarge = errors.New("the answer is larger than such a document may be")

func readLimited(body io.Reader, limit int) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(body, int64(limit)+1))
	if err == nil && len(b) > limit {
		err = fmt.Errorf("%w, %d bytes", errTooLarge, limit)
	}
	return b, err
}
