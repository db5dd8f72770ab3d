package cdn_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/cdn"
)

func TestClientHeaders(t *testing.T) {
	n := start(t, cdn.Config{})
	content := randomContent(1000)
	o := serveOrigin(t, file(content, ""))
	src := o.source()
	src.Url = strings.Replace(src.Url, "://", "://user:secret@", 1)
	src.Headers = []string{
		"X-Token: abc", "Host: files.test", "Accept-Encoding: gzip", "If-None-Match: *", "If-Modified-Since: " + modified.Format(http.TimeFormat),
		"Connection: close, X-Hop", "X-Hop: 1", "Transfer-Encoding: chunked", "Content-Length: 5",
	}
	n.mustSeed(t, idOf("headers"), src, content)
	r := o.seen()[0]
	user, password, ok := r.BasicAuth()
	require.True(t, ok)
	require.Equal(t, "user:secret", user+":"+password)
	require.Equal(t, "files.test", r.Host)
	require.Equal(t, "abc", r.Header.Get("X-Token"))
	require.Equal(t, []string{"identity"}, r.Header.Values("Accept-Encoding"))
	for _, name := range []string{"If-None-Match", "If-Modified-Since", "X-Hop", "Content-Length"} {
		require.Empty(t, r.Header.Values(name), name)
	}
}

func TestRangeIsPartOfTheTask(t *testing.T) {
	n := start(t, cdn.Config{})
	content := randomContent(1000)
	o := serveOrigin(t, file(content, ""))
	src := o.source()
	src.Headers = []string{"range: bytes=100-299"}
	n.mustSeed(t, idOf("ranged"), src, content[100:300])

	o.set(plainFile(content))
	_, err := n.seed(t, idOf("range ignored"), src)
	requireReason(t, err, rpcerr.SourceBroken)
}

func TestRedirectToAnotherOriginDropsCredentials(t *testing.T) {
	n := start(t, cdn.Config{})
	content := randomContent(1000)
	target := serveOrigin(t, file(content, ""))
	o := serveOrigin(t, nil)
	o.set(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/file":
			http.Redirect(w, r, "/again", http.StatusFound)
		case "/again":
			http.Redirect(w, r, target.URL+"/other", http.StatusTemporaryRedirect)
		}
	})
	secrets := []string{"Authorization", "Cookie", "X-Token"}
	src := o.source()
	src.Headers = []string{"Authorization: Bearer x", "Cookie: a=b", "X-Token: abc", "User-Agent: dfget/1.0.6"}
	n.mustSeed(t, idOf("redirected"), src, content)
	for _, name := range secrets {
		require.NotEmpty(t, o.seen()[0].Header.Get(name))
		require.NotEmpty(t, o.seen()[1].Header.Get(name), "%s within the same server", name)
		require.Empty(t, target.seen()[0].Header.Get(name), "%s at another", name)
	}
	require.Empty(t, target.seen()[0].Header.Get("Referer"))
	require.Equal(t, "dfget/1.0.6", target.seen()[0].Header.Get("User-Agent"))
	require.Equal(t, "identity", target.seen()[0].Header.Get("Accept-Encoding"))

	o.set(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path+"x", http.StatusFound) })
	_, err := n.seed(t, idOf("loop"), o.source())
	requireReason(t, err, rpcerr.SourceUnreachable)
}

func TestTLSSettingsArePerTask(t *testing.T) {
	n := start(t, cdn.Config{})
	content := randomContent(1000)
	server := httptest.NewUnstartedServer(file(content, ""))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // the test causes failed handshakes
	server.StartTLS()
	t.Cleanup(server.Close)
	url := server.URL + "/file"
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})

	_, err := n.seed(t, idOf("strict"), &cdnv1.Source{Url: url})
	requireReason(t, err, rpcerr.SourceUnreachable)
	n.mustSeed(t, idOf("insecure"), &cdnv1.Source{Url: url, Insecure: true}, content)
	_, err = n.seed(t, idOf("strict"), &cdnv1.Source{Url: url})
	requireReason(t, err, rpcerr.SourceUnreachable)
	n.mustSeed(t, idOf("root"), &cdnv1.Source{Url: url, RootCas: [][]byte{root}}, content)
	_, err = n.seed(t, idOf("strict"), &cdnv1.Source{Url: url})
	requireReason(t, err, rpcerr.SourceUnreachable)

	other := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: otherCertificate(t)})
	_, err = n.seed(t, idOf("wrong root"), &cdnv1.Source{Url: url, RootCas: [][]byte{other}})
	requireReason(t, err, rpcerr.SourceUnreachable)
}

func TestRefusals(t *testing.T) {
	n := start(t, cdn.Config{})
	var answer int
	o := serveOrigin(t, nil)
	for _, c := range []struct {
		status int
		code   codes.Code
		reason rpcerr.Reason
	}{
		{401, codes.Unauthenticated, rpcerr.SourceAuthRequired},
		{407, codes.Unauthenticated, rpcerr.SourceAuthRequired},
		{404, codes.NotFound, rpcerr.SourceNotFound},
		{410, codes.NotFound, rpcerr.SourceNotFound},
		{403, codes.Unavailable, rpcerr.SourceUnreachable},
		{500, codes.Unavailable, rpcerr.SourceUnreachable},
		{304, codes.Unavailable, rpcerr.SourceUnreachable},
		{204, codes.DataLoss, rpcerr.SourceBroken},
		{206, codes.DataLoss, rpcerr.SourceBroken},
	} {
		answer = c.status
		o.set(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(answer) })
		_, err := n.seed(t, idOf("refused"), o.source())
		require.Equal(t, c.code, status.Code(err), "%d", c.status)
		requireReason(t, err, c.reason)
	}
	// A failed task is removed from memory, so it can be fetched when the source works again.
	content := randomContent(1000)
	o.set(plainFile(content))
	n.mustSeed(t, idOf("refused"), o.source(), content)

	gone := listen(t)
	require.NoError(t, gone.Close())
	_, err := n.seed(t, idOf("nobody"), &cdnv1.Source{Url: "http://user:secret@" + gone.Addr().String() + "/?token=secret"})
	requireReason(t, err, rpcerr.SourceUnreachable)
	require.NotContains(t, err.Error(), "secret")
}

// Validators that cannot be sent in messages are ignored.
func TestInvalidValidatorsAreIgnored(t *testing.T) {
	n := start(t, cdn.Config{})
	content := randomContent(5 << 20)
	for name, value := range map[string]string{
		"latin-1": "\"\xe4\xff\"", "endless": `"` + strings.Repeat("x", 20<<10) + `"`,
	} {
		o := serveOrigin(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", value)
			w.Header().Set("Last-Modified", value)
			plainFile(content)(w, r)
		})
		n.mustSeed(t, idOf(name), o.source(), content)
		n.mustSeed(t, idOf(name), o.source(), content)
		for _, u := range n.records.of(idOf(name)) {
			require.Empty(t, u.GetSource().GetEtag()+u.GetSource().GetLastModified(), name)
		}
	}
}

func TestRequestedMD5IsChecked(t *testing.T) {
	n := start(t, cdn.Config{})
	content := randomContent(5 << 18)
	o := serveOrigin(t, plainFile(content))
	src := o.source()
	src.Md5 = strings.ToUpper(sum(content))
	n.mustSeed(t, idOf("right"), src, content)
	src.Md5 = sum(nil)
	got, err := n.seed(t, idOf("wrong"), src)
	requireReason(t, err, rpcerr.SourceBroken)
	require.Len(t, got.pieces, 2, "the pieces were announced as they landed")
	requireNoFiles(t, n, idOf("wrong"))
}

func TestCutOffWithoutValidator(t *testing.T) {
	n := start(t, cdn.Config{})
	content := randomContent(9 << 20)
	for name, header := range map[string]http.Header{
		"nothing":       {},
		"no validator":  {"Accept-Ranges": {"bytes"}},
		"weak":          {"Accept-Ranges": {"bytes"}, "Etag": {`W/"v1"`}},
		"no ranges":     {"Etag": {`"v1"`}},
		"ranges: none":  {"Etag": {`"v1"`}, "Accept-Ranges": {"none"}},
		"before a byte": nil,
	} {
		sent := 5 << 20
		if header == nil {
			sent = 0
		}
		o := serveOrigin(t, cutAfter(content, sent, header))
		_, err := n.seed(t, idOf(name), o.source())
		requireReason(t, err, rpcerr.SourceBroken)
		require.Len(t, o.seen(), 1, name)
		requireNoFiles(t, n, idOf(name))
	}
}

// stalled is an idle timeout for tests. It is long enough for the start of an answer, which
// it bounds too, on a machine that is suspended for a while.
const stalled = 5 * time.Second

func TestStalledSource(t *testing.T) {
	t.Parallel()
	n := start(t, cdn.Config{IdleTimeout: stalled})
	content := randomContent(9 << 20)
	g := newGate(t, content, 5<<20)
	o := serveOrigin(t, g.ServeHTTP)
	_, err := n.seed(t, idOf("stalled"), o.source())
	requireReason(t, err, rpcerr.SourceBroken)
}

// A source with validators is asked to resume.
func TestStalledSourceIsResumed(t *testing.T) {
	t.Parallel()
	content := randomContent(9 << 20)
	g := newGate(t, content, 5<<20)
	o := serveOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") != "" {
			file(content, `"v1"`)(w, r)
			return
		}
		w.Header().Set("ETag", `"v1"`)
		w.Header().Set("Last-Modified", modified.Format(http.TimeFormat))
		w.Header().Set("Accept-Ranges", "bytes")
		g.ServeHTTP(w, r)
	})
	n := start(t, cdn.Config{IdleTimeout: stalled})
	n.mustSeed(t, idOf("stalled"), o.source(), content)
}

// A source that accepts connections and never answers counts as unreachable.
func TestSourceThatNeverAnswersIsUnreachable(t *testing.T) {
	silent := listen(t)
	t.Cleanup(func() { require.NoError(t, silent.Close()) })
	impatient := start(t, cdn.Config{IdleTimeout: 50 * time.Millisecond})
	_, err := impatient.seed(t, idOf("mute"), &cdnv1.Source{Url: "http://" + silent.Addr().String()})
	requireReason(t, err, rpcerr.SourceUnreachable)
}

// interrupted breaks the first answers after sent bytes, and then calls the handler.
func interrupted(content []byte, cuts, sent int, header http.Header, then http.HandlerFunc) http.HandlerFunc {
	asked := make(chan struct{}, cuts)
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case asked <- struct{}{}:
			cutAfter(content, sent, header)(w, r)
		default:
			then(w, r)
		}
	}
}

func TestCutOffSourceIsResumed(t *testing.T) {
	n := start(t, cdn.Config{})
	content := randomContent(9 << 18)
	date := modified.Format(http.TimeFormat)
	const second = piece.MinSize - piece.WrapLength // offset of the second piece
	for name, c := range map[string]struct {
		header  http.Header
		then    http.HandlerFunc
		ifRange string
	}{
		"etag": {http.Header{"Etag": {`"v1"`}, "Accept-Ranges": {"bytes"}, "Last-Modified": {date}}, file(content, `"v1"`), `"v1"`},
		"date": {http.Header{"Etag": {`W/"v1"`}, "Accept-Ranges": {"bytes"}, "Last-Modified": {date}}, file(content, `W/"v1"`), date},
	} {
		o := serveOrigin(t, interrupted(content, 1, 5<<18, c.header, c.then))
		n.mustSeed(t, idOf(name), o.source(), content)
		require.Len(t, o.seen(), 2)
		require.Equal(t, "bytes=1048571-", o.seen()[1].Header.Get("Range"))
		require.Equal(t, c.ifRange, o.seen()[1].Header.Get("If-Range"))
	}
	require.EqualValues(t, 1048571, second)

	t.Run("a source with a bad time", func(t *testing.T) {
		header := http.Header{"Etag": {`"v1"`}, "Accept-Ranges": {"bytes"}}
		busy := make(chan struct{}, 2)
		o := serveOrigin(t, interrupted(content, 1, 5<<18, header, func(w http.ResponseWriter, r *http.Request) {
			select {
			case busy <- struct{}{}:
				w.WriteHeader(http.StatusServiceUnavailable)
			default:
				file(content, `"v1"`)(w, r)
			}
		}))
		n.mustSeed(t, idOf("bad time"), o.source(), content)
		require.Len(t, o.seen(), 4)
	})
	t.Run("the range that the client asked for", func(t *testing.T) {
		part := content[100 : 100+8<<18]
		header := http.Header{"Etag": {`"v1"`}}
		o := serveOrigin(t, nil)
		o.set(interrupted(part, 1, 5<<18, header, file(content, `"v1"`)))
		first := o.handler
		o.set(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("If-Range") == "" {
				w.Header().Set("Content-Range", "bytes 100-2097251/2359296")
				w = &partial{w}
			}
			first(w, r)
		})
		src := o.source()
		src.Headers = []string{"Range: bytes=100-2097251"}
		n.mustSeed(t, idOf("part"), src, part)
		require.Equal(t, "bytes=1048671-2097251", o.seen()[1].Header.Get("Range"))
	})
}

// partial changes the status of an answer to 206.
type partial struct{ http.ResponseWriter }

func (p *partial) Write(b []byte) (int, error) {
	p.WriteHeader(http.StatusPartialContent)
	return p.ResponseWriter.Write(b)
}

func (p *partial) Unwrap() http.ResponseWriter { return p.ResponseWriter }

func TestCutOffSourceThatCannotResumeIsBroken(t *testing.T) {
	n := start(t, cdn.Config{})
	content, changed := randomContent(9<<18), randomContent(9<<18)
	changed[8<<18]++
	header := http.Header{"Etag": {`"v1"`}, "Accept-Ranges": {"bytes"}}
	wrongRange := func(contentRange string, length int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("ETag", `"v1"`)
			w.Header().Set("Content-Range", contentRange)
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(make([]byte, length))
		}
	}
	for name, c := range map[string]struct {
		then     http.HandlerFunc
		requests int
	}{
		"changed":       {file(changed, `"v2"`), 2},
		"other version": {func(w http.ResponseWriter, r *http.Request) { r.Header.Del("If-Range"); file(changed, `"v2"`)(w, r) }, 2},
		"other place":   {wrongRange("bytes 0-2359295/2359296", 9<<18), 2},
		"other length":  {wrongRange("bytes 1048571-2359311/2359312", 100), 2},
		"gone":          {http.NotFound, 2},
		"range ignored": {plainFile(content), 2},
	} {
		o := serveOrigin(t, interrupted(content, 1, 5<<18, header, c.then))
		_, err := n.seed(t, idOf(name), o.source())
		requireReason(t, err, rpcerr.SourceBroken)
		require.Len(t, o.seen(), c.requests, name)
		requireNoFiles(t, n, idOf(name))
	}
}

func TestBandwidthLimitsDeliverAll(t *testing.T) {
	n := start(t, cdn.Config{MaxBandwidth: 64 << 20, MaxUploadBandwidth: 64 << 20})
	content := randomContent(9 << 20)
	o := serveOrigin(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = bytes.NewReader(content).WriteTo(w) })
	n.mustSeed(t, idOf("limited"), o.source(), content)
}

// otherCertificate returns a certificate that the test server does not have.
func otherCertificate(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	return der
}
