package pull

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"moss/fail"
	"moss/oci"
)

// This file finds who to be at a registry: in the files that podman login and
// docker login write (containers-auth.json(5); docker's config.json), or from
// the helper programs those files name.

// credentials are what a login left behind. At most one of the three kinds is
// set; all empty means nobody logged in.
type credentials struct {
	user, password string
	identityToken  string // an OAuth2 refresh token
	registryToken  string // a bearer token, ready to use
	from           string // the file or helper, for errors
}

func (c credentials) none() bool {
	return c.user == "" && c.password == "" && c.identityToken == "" && c.registryToken == ""
}

// authFile is the part of both formats that matters here.
type authFile struct {
	Auths       map[string]authEntry `json:"auths"`
	CredsStore  string               `json:"credsStore"`
	CredHelpers map[string]string    `json:"credHelpers"`

	path string
}

type authEntry struct {
	Auth          string `json:"auth"` // base64 of user:password
	Username      string `json:"username"`
	Password      string `json:"password"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// credentials looks ref's registry and repository up, in the order of
// containers-auth.json(5). warn gets what went wrong without ending the search:
// a missing helper must not keep anybody from a public image.
func (s *surroundings) credentials(ctx context.Context, ref oci.Reference, helpers []string, warn func(error)) (credentials, error) {
	fromFiles := func() (credentials, error) {
		for _, path := range s.authFiles() {
			f, err := readAuthFile(path, path == s.getenv("REGISTRY_AUTH_FILE"))
			if err != nil {
				return credentials{}, err
			}
			if c, err := f.lookup(ctx, ref, warn); err != nil || !c.none() {
				return c, err
			}
		}
		return credentials{}, nil
	}
	if len(helpers) == 0 {
		return fromFiles()
	}
	// registries.conf's credential-helpers replace the files, unless they name
	// them.
	for _, h := range helpers {
		var c credentials
		var err error
		if h == "containers-auth.json" {
			c, err = fromFiles()
		} else {
			c, err = askHelper(ctx, h, "credential-helpers in registries.conf", ref.Registry, warn)
		}
		if err != nil || !c.none() {
			return c, err
		}
	}
	return credentials{}, nil
}

// authFiles lists the files to look into, best first.
func (s *surroundings) authFiles() []string {
	if only := s.getenv("REGISTRY_AUTH_FILE"); only != "" {
		return []string{only}
	}
	files := []string{filepath.Join(s.runtimeDir, "containers/auth.json")}
	if s.configHome != "" {
		files = append(files, filepath.Join(s.configHome, "containers/auth.json"))
	}
	if dir := s.getenv("DOCKER_CONFIG"); dir != "" {
		files = append(files, filepath.Join(dir, "config.json"))
	} else if s.home != "" {
		files = append(files, filepath.Join(s.home, ".docker/config.json"))
	}
	return files
}

// readAuthFile reads one file. One that does not exist is empty, unless it was
// asked for by name.
func readAuthFile(path string, must bool) (*authFile, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && !must {
		return &authFile{path: path}, nil
	}
	if err != nil {
		e := &fail.Error{Op: "read login file", Err: err}
		if must {
			e.Why, e.Try = "the variable REGISTRY_AUTH_FILE names this file", "unset REGISTRY_AUTH_FILE"
		}
		return nil, e
	}
	return parseAuthFile(path, data)
}

func parseAuthFile(path string, data []byte) (*authFile, error) {
	f := &authFile{path: path}
	if len(bytes.TrimSpace(data)) == 0 {
		return f, nil
	}
	if err := json.Unmarshal(data, f); err != nil {
		line := 0
		var syntax *json.SyntaxError
		var kind *json.UnmarshalTypeError
		switch {
		case errors.As(err, &syntax):
			line = 1 + bytes.Count(data[:min(int(syntax.Offset), len(data))], []byte("\n"))
		case errors.As(err, &kind):
			line = 1 + bytes.Count(data[:min(int(kind.Offset), len(data))], []byte("\n"))
		}
		return nil, &fail.Error{Op: "read login file", On: path, Err: fmt.Errorf("line %d: %w", line, err),
			Try: "log in anew with podman login or docker login, which write this file"}
	}
	return f, nil
}

// lookup asks, as docker does, the helper for this registry, then the helper
// for all, then the file itself.
func (f *authFile) lookup(ctx context.Context, ref oci.Reference, warn func(error)) (credentials, error) {
	keys := authKeys(ref)
	for _, key := range keys {
		if helper := f.CredHelpers[key]; helper != "" {
			return askHelper(ctx, helper, f.path, key, warn)
		}
	}
	if f.CredsStore != "" {
		// Helpers know docker.io by the address docker login gave it, others by
		// host: the last key is the plainest.
		c, err := askHelper(ctx, f.CredsStore, f.path, keys[len(keys)-1], warn)
		if err != nil || !c.none() {
			return c, err
		}
	}
	for _, key := range keys {
		if e, ok := f.Auths[key]; ok {
			if c, err := e.decode(f.path, key); err != nil || !c.none() {
				return c, err
			}
		}
	}
	// Keys as old docker versions wrote them: https://host/v1/.
	for key, e := range f.Auths {
		rest, ok := strings.CutPrefix(key, "https://")
		if !ok {
			rest, ok = strings.CutPrefix(key, "http://")
		}
		if host, _, _ := strings.Cut(rest, "/"); ok && host == ref.Registry {
			if c, err := e.decode(f.path, key); err != nil || !c.none() {
				return c, err
			}
		}
	}
	return credentials{}, nil
}

// authKeys are the keys a login for ref may have, most specific first
// (containers-auth.json(5): host/namespace/repo, …, host). docker.io has a
// history: docker login writes https://index.docker.io/v1/ for it.
func authKeys(ref oci.Reference) []string {
	var keys []string
	for name := ref.Name(); ; {
		keys = append(keys, name)
		i := strings.LastIndexByte(name, '/')
		if i < 0 {
			break
		}
		name = name[:i]
	}
	if ref.Registry == oci.DefaultRegistry {
		keys = append(keys, "registry-1.docker.io", "index.docker.io", "https://index.docker.io/v1/")
	}
	return keys
}

func (e authEntry) decode(path, key string) (credentials, error) {
	c := credentials{user: e.Username, password: e.Password, identityToken: e.IdentityToken, registryToken: e.RegistryToken, from: path}
	if e.Auth != "" {
		raw, err := base64.StdEncoding.DecodeString(e.Auth)
		user, password, ok := strings.Cut(strings.TrimRight(string(raw), "\x00"), ":")
		if err != nil || !ok {
			return credentials{}, &fail.Error{Op: "read login file", On: path,
				Err: fmt.Errorf("the auth of %q is not base64 of user:password", clip(key, 100)),
				Try: "log in anew with podman login or docker login, which write this file"}
		}
		c.user, c.password = user, password
	}
	return c, nil
}

// askHelper runs docker-credential-NAME get: the registry on standard input,
// JSON on standard output (docker-credential-helpers, "Development").
func askHelper(ctx context.Context, name, namedBy, registry string, warn func(error)) (credentials, error) {
	program := "docker-credential-" + name
	if strings.ContainsAny(name, "/\x00") {
		warn(&fail.Error{Op: "ask for a login", Err: fmt.Errorf("%s names %q, which is not a helper's name", namedBy, clip(name, 100))})
		return credentials{}, nil
	}
	cmd := exec.CommandContext(ctx, program, "get")
	cmd.Stdin = strings.NewReader(registry)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		said := clip(out.String()+" "+errOut.String(), 200)
		switch {
		case ctx.Err() != nil:
			return credentials{}, context.Cause(ctx)
		case strings.Contains(said, "credentials not found"), strings.Contains(said, "no credentials"):
			return credentials{}, nil // nobody logged in there
		case errors.Is(err, exec.ErrNotFound):
			warn(&fail.Error{Op: "ask for a login", On: registry, Err: fmt.Errorf("%s is not installed", program),
				Why: fmt.Sprintf("%s says that it keeps the passwords; going on without any", namedBy),
				Try: fmt.Sprintf("install %s, or take its name out of %s", program, namedBy)})
			return credentials{}, nil
		}
		warn(&fail.Error{Op: "ask for a login", On: registry, Err: fmt.Errorf("%s: %w: %s", program, err, said),
			Why: "going on without one", Try: fmt.Sprintf("echo %s | %s get", registry, program)})
		return credentials{}, nil
	}
	var answer struct{ Username, Secret string }
	if err := json.Unmarshal(out.Bytes(), &answer); err != nil {
		// What it wrote may hold the secret: it is not shown.
		warn(&fail.Error{Op: "ask for a login", On: registry, Err: fmt.Errorf("%s did not answer with JSON", program)})
		return credentials{}, nil
	}
	c := credentials{user: answer.Username, password: answer.Secret, from: program}
	if answer.Username == "<token>" {
		c.user, c.password, c.identityToken = "", "", answer.Secret
	}
	return c, nil
}
