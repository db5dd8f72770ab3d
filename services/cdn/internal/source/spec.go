// Package source requests the content of a task from its source over HTTP. It decides
// which headers of the client are sent, and classifies the responses by error kind.
// Package fetch splits the content into pieces and stores it.
//
// Invariants:
//
//   - Headers of the client that may hold credentials are sent to the origin of the
//     source only, see checkRedirect.
//   - No error text contains the client's URL, which may hold credentials, too.
//   - A request ends if the source sends less than minProgress bytes within
//     Timeouts.Idle.
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

// userAgent is the User-Agent header if the client sent none.
const userAgent = "supernode-cdn"

// Raw describes a source as the client sent it. It has not been checked.
type Raw struct {
	// URL is the http or https URL. It may contain credentials.
	URL string
	// Headers are the client's request headers, as "Name: value".
	Headers []string
	// MD5 is the hex MD5 that the content must have, or empty.
	MD5 string
	// Insecure disables the verification of the source's certificate.
	Insecure bool
	// RootCAs are the PEM certificates that the source's certificate is verified
	// against, instead of those of the system.
	RootCAs [][]byte
}

// Spec is a source that has been checked. It does not change after Parse.
type Spec struct {
	// MD5 is the hex MD5 that the content must have, in lower case, or empty.
	MD5 string

	url       *url.URL
	host      string // the client's Host header, or empty
	header    http.Header
	rangeSpec string // the client's Range header; the task is that range of the source
	insecure  bool
	rootCAs   *x509.CertPool
}

// Parse checks a source. Its error texts are for the client.
func Parse(raw Raw) (*Spec, error) {
	address, err := url.Parse(raw.URL)
	if err != nil {
		// The text of a url.Error contains the URL, which may hold a password.
		return nil, fmt.Errorf("the source's URL cannot be parsed")
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
	s.moveCredentials()
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

// Address returns the URL of the source without user, password and fragment. It can be
// stored.
func (s *Spec) Address() string { return s.url.String() }

// Host returns the host and the port of the URL. They can be logged.
func (s *Spec) Host() string { return s.url.Host }

// private reports whether the source must not share connections with other tasks.
func (s *Spec) private() bool { return s.insecure || s.rootCAs != nil }

func (s *Spec) parseHeaders(lines []string) error {
	s.header = make(http.Header, len(lines)+2)
	for i, line := range lines {
		name, value, ok := strings.Cut(line, ":")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !ok || !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
			// The line may contain a secret, so the error does not.
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
	// The task has the bytes and the length of the file at the source, so the
	// response must not be compressed, even if the client could decompress it.
	s.header.Set("Accept-Encoding", "identity")
	if s.header.Get("User-Agent") == "" {
		s.header.Set("User-Agent", userAgent)
	}
	return nil
}

// parseHost moves the Host header to s.host: net/http sends the Host field of a
// request, not its header.
func (s *Spec) parseHost() error {
	s.host = s.header.Get("Host")
	s.header.Del("Host")
	if !httpguts.ValidHostHeader(s.host) {
		return fmt.Errorf("the Host header is not a host")
	}
	return nil
}

// moveCredentials moves user and password of the URL to the Authorization header,
// unless the client sent one, and removes the fragment. So the rules of checkRedirect
// apply to them, and they appear neither in error texts nor in Referer.
func (s *Spec) moveCredentials() {
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

// notForwarded returns the headers of the client that are not sent to the source: they
// concern one connection, or request something other than the whole content. The
// caller adds Range again.
func notForwarded() []string {
	return []string{
		"Connection", "Proxy-Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
		"Proxy-Authenticate", "Proxy-Authorization", "Content-Length", "Expect", "Range",
		"If-None-Match", "If-Modified-Since", "If-Match", "If-Unmodified-Since", "If-Range",
	}
}
