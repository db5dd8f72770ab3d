package peer

import (
	"context"
	"crypto/md5"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/time/rate"
)

// Reasons for going to the source, as dfget numbers them.
const (
	reasonRegister  = 1
	reasonDownload  = 3
	reasonWrite     = 6
	reasonNoNodes   = 8
	reasonForbidden = 1000 // added when NoBackSource is set
)

// backToSource downloads the file the plain way. Any status below 400 counts
// as the file, which is what dfget thinks.
func (p *Peer) backToSource(ctx context.Context, reason int, want string) error {
	if p.cfg.NoBackSource {
		reason += reasonForbidden
		p.rec.update(func(r *Result) { r.Reason = reason })
		return fmt.Errorf("reason %d: %w", reason, ErrNoBackSource)
	}
	p.rec.update(func(r *Result) { r.Reason, r.BackToSource = reason, true })
	p.rec.tell(Event{Kind: BackToSource, Code: reason})

	client := p.sourceClient()
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.cfg.URL, nil)
	if err != nil {
		return fmt.Errorf("asking the source: %w", err)
	}
	for name, value := range headerMap(p.cfg.Headers) {
		request.Header.Add(name, value)
	}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("asking the source: %w", err)
	}
	defer response.Body.Close() //nolint:errcheck // it has been read
	if response.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("the source answers %d", response.StatusCode)
	}
	return p.saveSource(ctx, response.Body, want)
}

func (p *Peer) saveSource(ctx context.Context, body io.Reader, want string) error {
	path := p.path + ".source"
	file, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("making the file: %w", err)
	}
	if limit := p.cfg.LocalLimit; limit > 0 {
		limiter := rate.NewLimiter(rate.Limit(limit), max(int(limit/20), readStep))
		body = &limitedReader{ctx: ctx, from: body, limiter: limiter}
	}
	sum := md5.New()
	n, err := io.Copy(file, io.TeeReader(body, sum))
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("downloading from the source: %w", err)
	}
	got := hex.EncodeToString(sum.Sum(nil))
	if want != "" && got != want {
		return fmt.Errorf("from the source, %s instead of %s: %w", got, want, ErrWrongMD5)
	}
	p.rec.update(func(r *Result) { r.Path, r.Length, r.MD5 = path, n, got })
	return nil
}

func (p *Peer) sourceClient() *http.Client {
	config := &tls.Config{InsecureSkipVerify: p.cfg.Insecure} //nolint:gosec // the test's own wish
	if len(p.cfg.RootCAs) > 0 {
		config.RootCAs = x509.NewCertPool()
		for _, ca := range p.cfg.RootCAs {
			config.RootCAs.AppendCertsFromPEM(ca)
		}
	}
	dialer := &net.Dialer{Timeout: 30 * time.Second}
	return &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext, TLSClientConfig: config}}
}
