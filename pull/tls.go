package pull

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"moss/fail"
)

// How a registry is spoken to
//
//   - https with the system's authorities and those in certs.d is the rule.
//   - A registry on the loopback interface is asked in plain http first, which
//     is what listens there nearly always and costs no handshake; when it turns
//     out to speak https, that, whatever its certificate. Nobody but this
//     machine can listen in, so verifying would add nothing. docker treats
//     127.0.0.0/8 alike, in the other order.
//   - insecure = true in registries.conf, or --tls-verify=false: https with any
//     certificate, then http.
//   - insecure = false, or --tls-verify=true, said explicitly: https, verified,
//     on loopback too.

// schemes returns what to try, in order, and whether certificates are checked.
func schemes(host string, insecure, tlsVerify *bool) (try []string, unverified bool) {
	if tlsVerify != nil {
		strict := !*tlsVerify
		insecure = &strict
	}
	switch {
	case insecure != nil && *insecure:
		return []string{"https", "http"}, true
	case insecure == nil && isLoopback(host):
		return []string{"http", "https"}, true
	}
	return []string{"https"}, false
}

func isLoopback(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// transports hands out one transport per host: the registry's own, and those
// its redirects and its token server lead to. A client certificate meant for
// one host is so never shown to another.
type transports struct {
	s        *surroundings
	registry string                 // host whose certs.d authorities hold for all of them
	loose    func(host string) bool // whether a host's certificate goes unchecked

	mu     sync.Mutex
	byHost map[string]*http.Transport
}

// RoundTrip sends one request over its host's transport.
func (t *transports) RoundTrip(req *http.Request) (*http.Response, error) {
	tr, err := t.get(req.URL.Host)
	if err != nil {
		return nil, err
	}
	return tr.RoundTrip(req)
}

func (t *transports) get(host string) (*http.Transport, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if tr := t.byHost[host]; tr != nil {
		return tr, nil
	}
	config := &tls.Config{InsecureSkipVerify: t.loose(host)}
	for _, h := range []string{t.registry, host} {
		if err := t.s.addCertificates(config, h, h == host); err != nil {
			return nil, err
		}
		if t.registry == host {
			break
		}
	}
	tr := &http.Transport{
		Proxy:                  t.s.proxy,
		DialContext:            (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    15 * time.Second,
		DisableCompression:     true, // blobs are verified as they are sent
		ReadBufferSize:         256 << 10,
		MaxIdleConnsPerHost:    parallelLayers(),
		MaxResponseHeaderBytes: 256 << 10,
		// One connection per layer: HTTP/2 would send all layers through one,
		// with one congestion window and small frames to copy. Because of
		// TLSClientConfig, net/http does not turn it on by itself.
	}
	if t.byHost == nil {
		t.byHost = map[string]*http.Transport{}
	}
	t.byHost[host] = tr
	return tr, nil
}

func (t *transports) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, tr := range t.byHost {
		tr.CloseIdleConnections()
	}
}

// addCertificates reads certs.d/HOST:PORT as containers-certs.d(5) has it:
// *.crt are authorities; X.cert with X.key is who we are, when client is set.
func (s *surroundings) addCertificates(config *tls.Config, host string, client bool) error {
	dirs := []string{filepath.Join(s.etc, "docker/certs.d"), filepath.Join(s.etc, "containers/certs.d")}
	if s.configHome != "" {
		dirs = append(dirs, filepath.Join(s.configHome, "containers/certs.d"))
	}
	for _, dir := range dirs {
		dir = filepath.Join(dir, host)
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			continue // podman too passes over what it may not read
		}
		if err != nil {
			return &fail.Error{Op: "read certificates", Err: err}
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			switch base, ext := strings.TrimSuffix(path, filepath.Ext(path)), filepath.Ext(path); {
			case ext == ".crt":
				pem, err := os.ReadFile(path)
				if err != nil {
					return &fail.Error{Op: "read certificates", Err: err}
				}
				if config.RootCAs == nil {
					if config.RootCAs, err = x509.SystemCertPool(); err != nil {
						config.RootCAs = x509.NewCertPool()
					}
				}
				if !config.RootCAs.AppendCertsFromPEM(pem) {
					return &fail.Error{Op: "read certificates", On: path, Err: errors.New("no certificate in it"),
						Why: "a .crt file here is an authority in PEM form, containers-certs.d(5)"}
				}
			case ext == ".cert" && client:
				pair, err := tls.LoadX509KeyPair(path, base+".key")
				if err != nil {
					return &fail.Error{Op: "read certificates", On: path, Err: err,
						Why: "a .cert file here is a client's certificate and needs its key beside it, " + filepath.Base(base) + ".key"}
				}
				config.Certificates = append(config.Certificates, pair)
			}
		}
	}
	return nil
}
