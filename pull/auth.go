package pull

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"moss/explain"
	"moss/fail"
)

// This file turns a 401 into a request that is let in. The registry says what
// it wants in WWW-Authenticate: either the name and password themselves
// (Basic), or a token from a server it trusts (Bearer; distribution's "Token
// Authentication Specification" and "Oauth2 Token Authentication").

// authorizer knows how to be let in to one repository of one registry.
type authorizer struct {
	r    *registry
	find func(context.Context) (credentials, error)

	mu     sync.Mutex // held while a token is fetched, so that only one is
	looked bool
	creds  credentials

	challenge challenge // what the registry asked for last; scheme "" before
	value     string    // the Authorization header, "" for none
	renew     time.Time // when to get a new token; zero: never
}

// header returns the Authorization to send, renewed when it is about to end.
func (a *authorizer) header(ctx context.Context) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.value != "" && !a.renew.IsZero() && time.Now().After(a.renew) {
		if err := a.answer(ctx); err != nil {
			return "", err
		}
	}
	return a.value, nil
}

// challenged takes in a 401 to a request that carried sent. When it returns
// true, it is worth asking again.
func (a *authorizer) challenged(ctx context.Context, resp *http.Response, sent string) (bool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.value != sent {
		return true, nil // another request was faster and has a new one
	}
	var want challenge
	for _, c := range parseChallenges(resp.Header.Values("WWW-Authenticate")) {
		if c.scheme == "bearer" && want.scheme != "bearer" || c.scheme == "basic" && want.scheme == "" {
			want = c
		}
	}
	if want.scheme == "" {
		return false, nil
	}
	if !a.looked {
		creds, err := a.find(ctx)
		if err != nil {
			return false, err
		}
		a.creds, a.looked = creds, true
	}
	a.challenge = want
	if err := a.answer(ctx); err != nil {
		return false, err
	}
	return a.value != "" && a.value != sent, nil
}

// answer sets value to what the challenge asks for. a.mu is held.
func (a *authorizer) answer(ctx context.Context) error {
	a.value, a.renew = "", time.Time{}
	switch {
	case a.creds.registryToken != "":
		a.value = "Bearer " + a.creds.registryToken
	case a.challenge.scheme == "basic":
		if a.creds.user != "" || a.creds.password != "" {
			a.value = basic(a.creds)
		}
	default:
		token, ttl, err := a.token(ctx)
		if err != nil {
			return err
		}
		a.value, a.renew = "Bearer "+token, time.Now().Add(ttl-min(5*time.Second, ttl/2))
	}
	return nil
}

func basic(c credentials) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(c.user+":"+c.password))
}

// token asks the server that the challenge names for leave to pull.
func (a *authorizer) token(ctx context.Context) (token string, ttl time.Duration, err error) {
	realm, err := url.Parse(a.challenge.params["realm"])
	if err != nil || realm.Host == "" || realm.Scheme != "https" && realm.Scheme != "http" {
		return "", 0, &fail.Error{Op: "get a token for", On: a.r.host, Err: fmt.Errorf("the registry names %q as its token server", clip(a.challenge.params["realm"], 200))}
	}
	if realm.Scheme == "http" && !a.r.loose(realm.Host) {
		return "", 0, &fail.Error{Op: "get a token from", On: realm.Host, Err: errors.New("the token server is not https"),
			Why: "the registry sends its visitors to a server that would get the password in the clear"}
	}
	scope := a.challenge.params["scope"]
	if scope == "" {
		scope = "repository:" + a.r.repo + ":pull"
	}
	form := url.Values{"scope": strings.Fields(scope)}
	if service := a.challenge.params["service"]; service != "" {
		form.Set("service", service)
	}
	who := "nobody is logged in: as anonymous"

	var req *http.Request
	if a.creds.identityToken != "" {
		who = "with the identity token from " + a.creds.from
		form.Set("scope", scope)
		form.Set("grant_type", "refresh_token")
		form.Set("client_id", "moss")
		form.Set("refresh_token", a.creds.identityToken)
		req, err = http.NewRequestWithContext(ctx, http.MethodPost, realm.String(), strings.NewReader(form.Encode()))
		if err == nil {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
	} else {
		query := realm.Query()
		for k, v := range form {
			query[k] = v
		}
		if a.creds.user != "" {
			who = fmt.Sprintf("as %s, from %s", a.creds.user, a.creds.from)
			query.Set("account", a.creds.user)
		}
		realm.RawQuery = query.Encode()
		req, err = http.NewRequestWithContext(ctx, http.MethodGet, realm.String(), nil)
		if err == nil && a.creds.user != "" {
			req.Header.Set("Authorization", basic(a.creds))
		}
	}
	if err != nil {
		return "", 0, err
	}
	resp, err := a.r.send(req)
	if err != nil {
		return "", 0, a.r.tokenLesson(realm.Host, a.creds, err)
	}
	body, err := readLimited(resp.Body, 1<<20)
	resp.Body.Close()
	if err != nil {
		return "", 0, &fail.Error{Op: "get a token from", On: realm.Host, Err: err}
	}
	var answer struct {
		Token       string  `json:"token"`
		AccessToken string  `json:"access_token"`
		ExpiresIn   float64 `json:"expires_in"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return "", 0, &fail.Error{Op: "get a token from", On: realm.Host, Err: errors.New("the answer is not JSON")}
	}
	if answer.Token == "" {
		answer.Token = answer.AccessToken
	}
	if answer.Token == "" || strings.ContainsAny(answer.Token, "\r\n") {
		return "", 0, &fail.Error{Op: "get a token from", On: realm.Host, Err: errors.New("the answer holds no token")}
	}
	if answer.ExpiresIn <= 0 {
		answer.ExpiresIn = 60 // Token Authentication Specification: the default
	}
	ttl = time.Duration(min(answer.ExpiresIn, 86400) * float64(time.Second))
	a.r.explain.Step(explain.Step{
		What: "Get a token that lets us pull " + a.r.repo,
		Call: fmt.Sprintf("%s %s://%s%s scope=%q → a token for %s", req.Method, realm.Scheme, realm.Host, realm.Path, clip(scope, 200), ttl),
		Why:  who,
		See:  []string{"distribution: Token Authentication Specification", "pull/auth.go#authorizer"},
	})
	return answer.Token, ttl, nil
}
