package origin_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/supernode-ha/supernode/test/origin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, cfg origin.Config) *origin.Origin {
	t.Helper()
	o, err := origin.Start(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, o.Close()) })
	return o
}

// get asks with headers (name, value, …) and reads all.
func get(t *testing.T, url string, headers ...string) (*http.Response, []byte, error) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close() //nolint:errcheck // it has been read
	body, err := io.ReadAll(response.Body)
	return response, body, err
}

func TestContentIsTheSameHoweverItIsRead(t *testing.T) {
	const size = 3<<20 + 12345
	content := origin.Content(size, 7)
	require.NotEqual(t, content[:1<<20], content[1<<20:2<<20], "no part repeats another")
	require.NotEqual(t, content, origin.Content(size, 8))
	for _, at := range []int64{0, 1, 5, 65535, 65536, 65540, 1<<20 - 1, 1 << 20, size - 10} {
		part := make([]byte, 10)
		_, err := origin.Reader(size, 7).ReadAt(part, at)
		require.NoError(t, err)
		require.Equal(t, content[at:at+10], part, "at %d", at)
	}
	streamed, err := io.ReadAll(origin.Reader(size, 7))
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, streamed))
}

func TestRangesAndConditions(t *testing.T) {
	o := start(t, origin.Config{})
	modified := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	o.Put("/f", origin.File{Size: 1000, Seed: 1, ETag: `"one"`, LastModified: modified})
	content := origin.Content(1000, 1)
	const date = "Fri, 02 Jan 2026 03:04:05 GMT"
	for _, tt := range []struct {
		name    string
		headers []string
		status  int
		body    []byte
	}{
		{"whole", nil, 200, content},
		{"range", []string{"Range", "bytes=10-19"}, 206, content[10:20]},
		{"open range", []string{"Range", "bytes=990-"}, 206, content[990:]},
		{"behind the end", []string{"Range", "bytes=1000-"}, 416, nil},
		{"same etag", []string{"If-None-Match", `"one"`}, 304, nil},
		{"other etag", []string{"If-None-Match", `"two"`}, 200, content},
		{"not modified", []string{"If-Modified-Since", date}, 304, nil},
		{"if-range same", []string{"Range", "bytes=10-19", "If-Range", `"one"`}, 206, content[10:20]},
		{"if-range other", []string{"Range", "bytes=10-19", "If-Range", `"two"`}, 200, content},
		{"if-range date", []string{"Range", "bytes=10-19", "If-Range", date}, 206, content[10:20]},
	} {
		t.Run(tt.name, func(t *testing.T) {
			response, body, err := get(t, o.URL("/f"), tt.headers...)
			require.NoError(t, err)
			require.Equal(t, tt.status, response.StatusCode)
			if tt.body != nil {
				require.Equal(t, tt.body, body)
			}
		})
	}
	s := o.Stats("/f")
	require.EqualValues(t, 10, s.Requests)
	require.EqualValues(t, 7, s.Bodies)
	require.EqualValues(t, 2, s.NotModified)
	require.EqualValues(t, 3*1000+3*10+10, s.BytesSent)
	require.Equal(t, s.BytesSent, o.Total().BytesSent)
}

func TestRudeness(t *testing.T) {
	o := start(t, origin.Config{})
	content := origin.Content(300000, 2)
	file := origin.File{Size: 300000, Seed: 2}
	with := func(change func(*origin.File)) origin.File {
		f := file
		change(&f)
		return f
	}
	t.Run("hidden length", func(t *testing.T) {
		o.Put("/hidden", with(func(f *origin.File) { f.HideLength = true }))
		response, body, err := get(t, o.URL("/hidden"), "Range", "bytes=0-9")
		require.NoError(t, err)
		require.EqualValues(t, -1, response.ContentLength)
		require.True(t, bytes.Equal(content, body))
		o.Put("/hidden", origin.File{HideLength: true})
		response, body, err = get(t, o.URL("/hidden"))
		require.NoError(t, err)
		require.EqualValues(t, -1, response.ContentLength)
		require.Empty(t, body)
	})
	t.Run("no range", func(t *testing.T) {
		o.Put("/norange", with(func(f *origin.File) { f.NoRange = true }))
		response, _, err := get(t, o.URL("/norange"), "Range", "bytes=0-9")
		require.NoError(t, err)
		require.Equal(t, 200, response.StatusCode)
		require.Empty(t, response.Header.Get("Accept-Ranges"))
	})
	t.Run("cut twice", func(t *testing.T) {
		o.Put("/cut", with(func(f *origin.File) { f.CutAfter, f.CutRequests = 100000, 2 }))
		for range 2 {
			_, body, err := get(t, o.URL("/cut"))
			require.ErrorIs(t, err, io.ErrUnexpectedEOF)
			require.True(t, bytes.Equal(content[:100000], body))
		}
		_, body, err := get(t, o.URL("/cut"))
		require.NoError(t, err)
		require.True(t, bytes.Equal(content, body))
		require.EqualValues(t, 3, o.Stats("/cut").Bodies)
		require.EqualValues(t, 500000, o.Stats("/cut").BytesSent)
	})
	t.Run("cut behind the header", func(t *testing.T) {
		o.Put("/cut0", with(func(f *origin.File) { f.CutRequests = 1 }))
		_, body, err := get(t, o.URL("/cut0"))
		require.Error(t, err)
		require.Empty(t, body)
		require.Zero(t, o.Stats("/cut0").Bodies)
	})
	t.Run("status, header, credentials, redirect", func(t *testing.T) {
		o.Put("/status", with(func(f *origin.File) { f.Status = 503 }))
		o.Put("/header", with(func(f *origin.File) { f.RequireHeader = origin.Header{Name: "X-Token", Value: "t"} }))
		o.Put("/auth", with(func(f *origin.File) { f.BasicAuth = origin.Credentials{User: "u", Password: "p"} }))
		o.Put("/to", file)
		o.Put("/from", origin.File{Redirect: "/to"})
		for _, tt := range []struct {
			path    string
			headers []string
			status  int
		}{
			{"/status", nil, 503},
			{"/header", nil, 401},
			{"/header", []string{"X-Token", "t"}, 200},
			{"/auth", nil, 401},
			{"/auth", []string{"Authorization", "Basic dTpw"}, 200},
			{"/from", nil, 200},
			{"/nowhere", nil, 404},
		} {
			response, _, err := get(t, o.URL(tt.path), tt.headers...)
			require.NoError(t, err)
			require.Equal(t, tt.status, response.StatusCode, tt.path)
		}
		require.Zero(t, o.Stats("/from").Bodies)
		require.EqualValues(t, 1, o.Stats("/to").Bodies)
		require.Equal(t, "t", o.Stats("/header").LastHeaders.Get("X-Token"))
	})
}

func TestARateIsNeverOverrun(t *testing.T) {
	o := start(t, origin.Config{})
	o.Put("/slow", origin.File{Size: 20000, Seed: 3, Rate: 100000, HeaderDelay: time.Millisecond})
	began := time.Now()
	_, body, err := get(t, o.URL("/slow"))
	require.NoError(t, err)
	require.Equal(t, origin.Content(20000, 3), body)
	require.Greater(t, time.Since(began), 100*time.Millisecond, "a bound is never overrun")
}

func TestAStallEndsWhenItIsReleasedOrTheClientLeaves(t *testing.T) {
	o := start(t, origin.Config{})
	o.Put("/f", origin.File{Size: 200000, Seed: 4, StallAfter: 70000})
	stalled := func(s origin.Stats) bool { return s.BytesSent%70000 == 0 && s.Active == 1 && s.BytesSent > 0 }

	ctx, leave := context.WithCancel(t.Context())
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, o.URL("/f"), nil)
	require.NoError(t, err)
	response, err := (&http.Transport{}).RoundTrip(request)
	require.NoError(t, err)
	require.NoError(t, o.Await(t.Context(), "/f", stalled))
	leave()
	_ = response.Body.Close()
	require.NoError(t, o.Await(t.Context(), "/f", func(s origin.Stats) bool { return s.Active == 0 }))

	var body []byte
	var reading sync.WaitGroup
	reading.Go(func() { _, body, err = get(t, o.URL("/f")) })
	require.NoError(t, o.Await(t.Context(), "/f", func(s origin.Stats) bool { return s.BytesSent == 140000 }))
	o.Release("/f")
	reading.Wait()
	require.NoError(t, err)
	require.True(t, bytes.Equal(origin.Content(200000, 4), body))
	require.EqualValues(t, 2, o.Total().Bodies)
}

func TestAChangeLeavesWhatIsUnderWay(t *testing.T) {
	o := start(t, origin.Config{})
	o.Put("/f", origin.File{Size: 200000, Seed: 5, ETag: `"1"`, StallAfter: 1000})
	var body []byte
	var err error
	var reading sync.WaitGroup
	reading.Go(func() { _, body, err = get(t, o.URL("/f")) })
	require.NoError(t, o.Await(t.Context(), "/f", func(s origin.Stats) bool { return s.BytesSent == 1000 }))
	release := func() { o.Release("/f") }
	release()
	o.Change("/f", origin.File{Size: 100, Seed: 6, ETag: `"2"`})
	reading.Wait()
	require.NoError(t, err)
	require.True(t, bytes.Equal(origin.Content(200000, 5), body))
	response, body, err := get(t, o.URL("/f"), "Range", "bytes=50-", "If-Range", `"1"`)
	require.NoError(t, err)
	require.Equal(t, 200, response.StatusCode)
	require.Equal(t, origin.Content(100, 6), body)
}

func TestCloseFreesWhoStalls(t *testing.T) {
	o, err := origin.Start(origin.Config{})
	require.NoError(t, err)
	o.Put("/f", origin.File{Size: 200000, StallAfter: 1000})
	var reading sync.WaitGroup
	reading.Go(func() { _, _, _ = get(t, o.URL("/f")) })
	require.NoError(t, o.Await(t.Context(), "/f", func(s origin.Stats) bool { return s.BytesSent == 1000 }))
	require.NoError(t, o.Close())
	require.NoError(t, o.Close())
	reading.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, o.Await(ctx, "/f", func(origin.Stats) bool { return false }), context.Canceled)
}

func TestTLS(t *testing.T) {
	o := start(t, origin.Config{Address: "127.0.0.2:0", TLS: true})
	o.Put("/f", origin.File{Content: []byte("hello")})
	_, _, err := get(t, o.URL("/f"))
	require.Error(t, err, "nobody trusts it unasked")

	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(o.CA()))
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Get(o.URL("/f"))
	require.NoError(t, err)
	defer response.Body.Close() //nolint:errcheck // it has been read
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Equal(t, "hello", string(body))
}

func BenchmarkServing(b *testing.B) {
	o, err := origin.Start(origin.Config{})
	require.NoError(b, err)
	defer o.Close() //nolint:errcheck // the benchmark is over
	const size = 200 << 20
	o.Put("/f", origin.File{Size: size, Seed: 1})
	b.SetBytes(size)
	for b.Loop() {
		response, err := http.Get(o.URL("/f"))
		require.NoError(b, err)
		_, err = io.Copy(io.Discard, response.Body)
		require.NoError(b, err)
		require.NoError(b, response.Body.Close())
	}
	http.DefaultClient.CloseIdleConnections()
}
