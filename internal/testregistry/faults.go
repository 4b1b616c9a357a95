package testregistry

import (
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Fault changes how a request is answered.
type Fault func(http.Handler) http.Handler

type fault struct {
	match string
	times int // < 0: always
	wrap  Fault
}

// Break applies f to the next requests, up to times of them (negative: all),
// whose "METHOD /path" contains match.
func (r *Registry) Break(match string, times int, f Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = append(r.faults, &fault{match, times, f})
}

// Mend ends all faults.
func (r *Registry) Mend() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = nil
}

// Status answers with a status, and headers given as name, value, ….
func Status(code int, header ...string) Fault {
	return Answer(func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		Error(w, code, strings.ToUpper(strings.ReplaceAll(http.StatusText(code), " ", "")), http.StatusText(code))
	})
}

// Answer replaces the registry's answer.
func Answer(h http.HandlerFunc) Fault {
	return func(http.Handler) http.Handler { return h }
}

// Header adds to or, with an empty value, takes from the request before the
// registry sees it.
func Header(name, value string) Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			req = req.Clone(req.Context())
			req.Header.Del(name)
			if value != "" {
				req.Header.Set(name, value)
			}
			next.ServeHTTP(w, req)
		})
	}
}

// NoRange makes the registry ignore Range.
func NoRange() Fault { return Header("Range", "") }

// Cut breaks the connection after n bytes of body.
func Cut(n int) Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			next.ServeHTTP(&limited{ResponseWriter: w, left: n}, req)
		})
	}
}

type limited struct {
	http.ResponseWriter
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	n, err := l.ResponseWriter.Write(p[:min(len(p), l.left)])
	l.left -= n
	if l.left <= 0 || err != nil {
		http.NewResponseController(l.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	return n, nil
}

// Slow gives the body in pieces with a pause after each.
func Slow(piece int, pause time.Duration) Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			next.ServeHTTP(&slow{w, req, piece, pause}, req)
		})
	}
}

type slow struct {
	http.ResponseWriter
	req   *http.Request
	piece int
	pause time.Duration
}

func (s *slow) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		k, err := s.ResponseWriter.Write(p[:min(s.piece, len(p))])
		n += k
		if err != nil {
			return n, err
		}
		p = p[k:]
		http.NewResponseController(s.ResponseWriter).Flush()
		select {
		case <-time.After(s.pause):
		case <-s.req.Context().Done():
			return n, s.req.Context().Err()
		}
	}
	return n, nil
}

// Body answers 200 with these bytes and this type instead.
func Body(contentType string, body []byte) Fault {
	return Answer(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.Write(body)
	})
}

// Endless answers with a body that does not end.
func Endless(contentType string) Fault {
	return Answer(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		for {
			if _, err := io.WriteString(w, strings.Repeat("[", 64<<10)); err != nil {
				return
			}
		}
	})
}

// Redirect sends the client to the same path below base.
func Redirect(base string) Fault {
	return Answer(func(w http.ResponseWriter, req *http.Request) {
		http.Redirect(w, req, base+req.URL.Path, http.StatusTemporaryRedirect)
	})
}

// auth is what the registry wants to see. The zero value is open to all.
type auth struct {
	scheme         string // "basic", "bearer"
	user, password string
	refresh        string
	ttl            int
}

// RequireBasic lets only user in.
func (r *Registry) RequireBasic(user, password string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.auth = auth{scheme: "basic", user: user, password: password}
}

// RequireBearer wants a token from /token, which gives one to user, to whoever
// shows the refresh token, or, when user is empty, to anybody. ttl is in
// seconds; 0 is not to say.
func (r *Registry) RequireBearer(user, password, refresh string, ttl int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.auth = auth{scheme: "bearer", user: user, password: password, refresh: refresh, ttl: ttl}
}

// ExpireTokens makes all tokens given so far worthless.
func (r *Registry) ExpireTokens() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tokens += 1000
}

// serveAuth answers token requests and turns away who may not come in.
func (r *Registry) serveAuth(w http.ResponseWriter, req *http.Request) bool {
	r.mu.Lock()
	a := r.auth
	r.mu.Unlock()
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte(a.user+":"+a.password))
	got := req.Header.Get("Authorization")
	if req.URL.Path == "/token" {
		ok := a.user == "" || got == want
		if a.refresh != "" {
			ok = req.Method == http.MethodPost && req.FormValue("refresh_token") == a.refresh && req.FormValue("grant_type") == "refresh_token"
		}
		if !ok {
			w.WriteHeader(http.StatusUnauthorized)
			io.WriteString(w, `{"details":"incorrect username or password"}`)
			return true
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.tokens%1000 == 0 {
			r.tokens++
		}
		r.tokens++
		expires := ""
		if a.ttl != 0 {
			expires = fmt.Sprintf(`,"expires_in":%d`, a.ttl)
		}
		fmt.Fprintf(w, `{"token":"t%d-%s"%s}`, r.tokens, req.FormValue("scope"), expires)
		return true
	}
	switch a.scheme {
	case "basic":
		if got == want {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test, of sorts"`)
	case "bearer":
		r.mu.Lock()
		oldest := r.tokens / 1000 * 1000
		r.mu.Unlock()
		var n int
		token, _ := strings.CutPrefix(got, "Bearer t")
		number, scope, _ := strings.Cut(token, "-")
		n, _ = strconv.Atoi(number)
		repo := strings.TrimPrefix(req.URL.Path, "/v2/")
		for _, kind := range []string{"/manifests/", "/blobs/", "/tags/"} {
			repo, _, _ = strings.Cut(repo, kind)
		}
		if n > oldest && scope == "repository:"+repo+":pull" {
			return false
		}
		w.Header().Add("WWW-Authenticate", `Basic realm="old"`)
		w.Header().Add("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="test",scope="repository:%s:pull"`, r.URL, repo))
	default:
		return false
	}
	Error(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
	return true
}

func quiet() *log.Logger { return log.New(io.Discard, "", 0) }
