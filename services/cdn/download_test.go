package cdn_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/services/cdn"
)

func TestDownloadRanges(t *testing.T) {
	n := start(t, cdn.Config{})
	content := randomContent(5 << 18)
	o := serveOrigin(t, plainFile(content))
	id := idOf("ranges")
	n.mustSeed(t, id, o.source(), content)
	whole, err := os.ReadFile(filepath.Join(n.home, "repo", "download", id[:3], id))
	require.NoError(t, err)
	total := len(whole)
	eventually(t, func() bool { // bytes are counted after the peer has received them
		return n.counter(t, "supernode_cdn_sent_bytes_total") == float64(total) &&
			n.counter(t, "supernode_cdn_sent_pieces_total") == 2
	})

	status, body := n.get(t, path(id), "")
	require.Equal(t, http.StatusOK, status)
	require.True(t, bytes.Equal(whole, body))
	for ranges, want := range map[string][]byte{
		"bytes=0-0":                       whole[:1],
		"bytes=5-1048582":                 whole[5:1048583],
		"bytes=1048576-2097151":           whole[1048576:], // the last piece, by its full range
		"bytes=1048576-":                  whole[1048576:],
		"bytes=0-9223372036854775807":     whole,
		fmt.Sprintf("bytes=%d-", total-1): whole[total-1:],
	} {
		status, body := n.get(t, path(id), ranges)
		require.Equal(t, http.StatusPartialContent, status, ranges)
		require.True(t, bytes.Equal(want, body), ranges)
	}
	for _, ranges := range []string{
		"bytes=9-1", "bytes=-5", "bytes=0-1,3-4", "bytes=a-b", "pieces=0-1", "bytes=0-9223372036854775808",
		"bytes=99999999999999999999-", fmt.Sprintf("bytes=%d-", total), "bytes=2097152-3145727", "bytes", "bytes=+1-2", "bytes= 0-1",
	} {
		status, _ := n.get(t, path(id), ranges)
		require.Equal(t, http.StatusRequestedRangeNotSatisfiable, status, ranges)
	}

	res, err := http.Head("http://" + n.download + path(id))
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.EqualValues(t, total, res.ContentLength)
	require.Equal(t, "bytes", res.Header.Get("Accept-Ranges"))
	req, err := http.NewRequest(http.MethodGet, "http://"+n.download+path(id), nil)
	require.NoError(t, err)
	req.Header.Set("Range", "bytes="+piece.Range(1, piece.MinSize))
	res, err = http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, fmt.Sprintf("bytes 1048576-%d/%d", total-1, total), res.Header.Get("Content-Range"))
	http.DefaultClient.CloseIdleConnections()
}

func TestDownloadPathsCannotLeave(t *testing.T) {
	n := start(t, cdn.Config{})
	content := randomContent(1000)
	o := serveOrigin(t, plainFile(content))
	id := idOf("here")
	n.mustSeed(t, id, o.source(), content)
	require.NoError(t, os.WriteFile(filepath.Join(n.home, "secret"), []byte("secret"), 0o600))
	for _, target := range []string{
		"/", "/download", "/download/", "/download/" + id, "/download/abc/" + id, "/download/" + id[:3] + "/" + id + "/",
		"/download/" + id[:3] + "/" + id + ".meta", "/download/" + id[:3] + "/" + id + ".md5", "/download/" + id[:3] + "/" + strings.ToUpper(id),
		"/download/../download/" + id[:3] + "/" + id, "/download/" + id[:3] + "/../../../secret", "/download/%2e%2e/%2e%2e/secret",
		"/download/..%2f..%2f..%2fsecret", "/../../secret", "//download/" + id[:3] + "/" + id, "/download/" + id[:3] + "/" + id + "%00",
		"/download/" + idOf("none")[:3] + "/" + idOf("none"), "/secret",
	} {
		require.Equal(t, http.StatusNotFound, n.raw(t, "GET "+target+" HTTP/1.1\r\nHost: x\r\nRange: bytes=0-99\r\n\r\n"), target)
	}
	require.Equal(t, http.StatusOK, n.raw(t, "GET "+path(id)+" HTTP/1.1\r\nHost: x\r\n\r\n"))
	require.Equal(t, http.StatusMethodNotAllowed, n.raw(t, "DELETE "+path(id)+" HTTP/1.1\r\nHost: x\r\n\r\n"))
	require.Equal(t, http.StatusBadRequest, n.raw(t, "GET "+path(id)+" HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"))
	require.Equal(t, http.StatusOK, n.raw(t, "GET "+path(id)+" HTTP/1.1\r\nHost: x\r\n\r\n"))
}

// raw sends the bytes of a request, which need not be valid, and returns the status of the
// answer.
func (n *node) raw(t *testing.T, request string) int {
	t.Helper()
	conn, err := net.Dial("tcp", n.download)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	_, err = io.WriteString(conn, request)
	require.NoError(t, err)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	return res.StatusCode
}

func TestStopFinishesTransfers(t *testing.T) {
	n := start(t, cdn.Config{DrainTimeout: testTimeout})
	content := randomContent(30 << 20) // more than the socket buffers
	o := serveOrigin(t, plainFile(content))
	id := idOf("transfer")
	_, err := n.seed(t, id, o.source())
	require.NoError(t, err)
	res, err := http.DefaultClient.Get("http://" + n.download + path(id))
	require.NoError(t, err)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		n.stop()
	}()
	eventually(t, func() bool {
		conn, err := net.Dial("tcp", n.download)
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	})
	got, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Greater(t, len(got), len(content))
	<-stopped
	http.DefaultClient.CloseIdleConnections()
}
