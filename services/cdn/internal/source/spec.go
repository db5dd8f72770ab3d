// Package source is the CDN as an HTTP client: how a task's source is asked,
// what its answers mean, what of a client's request it is shown. It does not
// know what becomes of the bytes.
package source

import (
	"crypto/x509"
	"fmt"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/supernode-ha/supernode/pkg/piece"
)

// userAgent is sent unless the client has its own.
const userAgent = "supernode-cdn"

// Raw is a source as a client describes it.
type Raw struct {
	// URL is the http or https address, with credentials if it has any.
	URL string
	// Headers are the client's request headers, as "Name: value".
	Headers []string
	// MD5 is the hex MD5 that the content must have, or empty.
	MD5 string
	// Insecure skips the check of the source's certificate.
	Insecure bool
	// RootCAs are PEM certificates to check the source against in place of the
	// system's.
	RootCAs [][]byte
}

// Spec is a source that has been checked. It is not changed after Parse.
type Spec struct {
	// MD5 is what the content must have, in lower case, or empty.
	MD5 string

	url       *url.URL
	host      string // the client's Host header, or empty
	header    http.Header
	rangeSpec string // the client's Range header: it is part of what the task is
	insecure  bool
	rootCAs   *x509.CertPool
}

// Parse checks a source. Its errors are texts for the one who sent it.
func Parse(raw Raw) (*Spec, error) {
	address, err := url.Parse(raw.URL)
	if err != nil {
		// url.Error repeats the address, which may hold a password.
		return nil, fmt.Errorf("the source's URL cannot be read")
	}
	if address.Scheme != "http" && address.Scheme != "https" || address.Hostname() == "" {
		return nil, fmt.Errorf("the source's URL must be http or https and have a host")
	}
	s := &Spec{MD5: strings.ToLower(raw.MD5), url: address, insecure: raw.Insecure}
	if s.MD5 != "" && !piece.IsMD5(s.MD5) {
		return nil, fmt.Errorf("%.64q is not a hex MD5", raw.MD5)
	}
	if err := s.parseHeaders(raw.Headers); err != nil {
		return nil, err
	}
	s.takeCredentials()
	if len(raw.RootCAs) > 0 {
		s.rootCAs = x509.NewCertPool()
	}
	for i, pem := range raw.RootCAs {
		if !s.rootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("root certificate %d holds no PEM certificate", i)
		}
	}
	return s, nil
}

// Address is the source without user, password and fragment, fit to be kept.
func (s *Spec) Address() string { return s.url.String() }

// Host is where the source is, fit for logs.
func (s *Spec) Host() string { return s.url.Host }

// private tells whether the source must not share connections with others.
func (s *Spec) private() bool { return s.insecure || s.rootCAs != nil }

func (s *Spec) parseHeaders(lines []string) error {
	s.header = make(http.Header, len(lines)+2)
	for i, line := range lines {
		name, value, ok := strings.Cut(line, ":")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !ok || !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
			// The line itself may be a secret.
			return fmt.Errorf("header %d is not of the form \"Name: value\"", i)
		}
		s.header.Add(name, value)
	}
	if err := s.parseHost(); err != nil {
		return err
	}
	ranges := s.header.Values("Range")
	if len(ranges) > 1 {
		return fmt.Errorf("more than one Range header")
	}
	s.rangeSpec = s.header.Get("Range")
	for _, listed := range s.header.Values("Connection") {
		for name := range strings.SplitSeq(listed, ",") {
			s.header.Del(textproto.TrimString(name))
		}
	}
	for _, name := range notForwarded() {
		s.header.Del(name)
	}
	if s.rangeSpec != "" {
		s.header.Set("Range", s.rangeSpec)
	}
	// The task is the source's own bytes and length, whatever the client could
	// unpack itself.
	s.header.Set("Accept-Encoding", "identity")
	if s.header.Get("User-Agent") == "" {
		s.header.Set("User-Agent", userAgent)
	}
	return nil
}

// parseHost takes the Host header out, which Go sends from elsewhere.
func (s *Spec) parseHost() error {
	s.host = s.header.Get("Host")
	s.header.Del("Host")
	if !httpguts.ValidHostHeader(s.host) {
		return fmt.Errorf("the Host header is not a host")
	}
	return nil
}

// takeCredentials turns user and password of the URL into a header, so that
// they obey the same rules on a redirect and stay out of texts and Referer.
func (s *Spec) takeCredentials() {
	s.url.Fragment, s.url.RawFragment = "", ""
	user := s.url.User
	s.url.User = nil
	if user == nil || s.header.Get("Authorization") != "" {
		return
	}
	password, _ := user.Password()
	r := http.Request{Header: s.header}
	r.SetBasicAuth(user.Username(), password)
}

// notForwarded are the headers that concern one connection, or that ask for
// something else than the content.
func notForwarded() []string {
	return []string{
		"Connection", "Proxy-Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
		"Proxy-Authenticate", "Proxy-Authorization", "Content-Length", "Expect", "Range",
		"If-None-Match", "If-Modified-Since", "If-Match", "If-Unmodified-Since", "If-Range",
	}
}
