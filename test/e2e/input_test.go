package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/pkg/taskid"
)

type envelope struct {
	Code int    `json:"code"`
	Msg  string `json:"msg"`
}

func send(t *testing.T, method, url, body string) (int, envelope) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	var e envelope
	require.NoError(t, json.Unmarshal(text, &e), "%s %s: %s", method, url, text)
	return resp.StatusCode, e
}

func registration(url string) map[string]any {
	return map[string]any{
		"rawUrl": url, "cid": "127.0.0.9-1-1.1", "ip": "127.0.0.9", "port": 20001, "path": "/peer/file/x", "hostName": "h",
	}
}

func registerCode(t *testing.T, node, url string) int {
	t.Helper()
	body, err := json.Marshal(registration(url))
	require.NoError(t, err)
	_, e := send(t, http.MethodPost, "http://"+node+"/peer/registry", string(body))
	return e.Code
}

func TestBadInputIsRefusedAndHarmsNothing(t *testing.T) {
	node := oneSupernode(t)
	o := source(t)
	f, sum := file(300_000, 20)
	o.Put("/f", f)
	base := "http://" + node.REST
	id := taskid.Compute(o.URL("/f"), "", "", nil)
	download(t, sum, peers(t, 1, o.URL("/f"), node.REST))
	before := o.Total().Requests

	with := func(key string, value any) string {
		r := registration(o.URL("/never"))
		r[key] = value
		if value == nil {
			delete(r, key)
		}
		body, err := json.Marshal(r)
		require.NoError(t, err)
		return string(body)
	}
	for name, body := range map[string]string{
		"no json": "{", "not an object": "[]", "nothing": "", "rest behind": with("cid", "c") + "x",
		"number for text": with("cid", 7), "text for number": with("port", "many"), "object for text": with("rawUrl", map[string]any{}),
		"no url": with("rawUrl", nil), "empty url": with("rawUrl", ""), "no cid": with("cid", nil), "no ip": with("ip", nil),
		"ip that is none": with("ip", "localhost"), "ipv6": with("ip", "::1"), "unspecified ip": with("ip", "0.0.0.0"),
		"port too low": with("port", 14999), "port too high": with("port", 65001), "port negative": with("port", -1), "port huge": with("port", 1<<40),
		"ftp": with("rawUrl", "ftp://h/f"), "no host": with("rawUrl", "http:///f"), "no scheme": with("rawUrl", "h/f"), "file": with("rawUrl", "file:///etc/passwd"),
		"slash in cid": with("cid", "a/b"), "dots in cid": with("cid", "a..b"), "path with dots": with("path", "/peer/../x"), "md5 that is none": with("md5", "xyz"),
		"two ranges": with("headers", []string{"Range: bytes=0-1", "Range: bytes=2-3"}), "root that is none": with("rootCAs", []string{"%%%"}),
	} {
		status, e := send(t, http.MethodPost, base+"/peer/registry", body)
		require.Equal(t, 400, status, "%s: %+v", name, e)
		require.Equal(t, 400, e.Code, name)
		require.NotEmpty(t, e.Msg, name)
	}
	pull := "/peer/task?srcCid=c&dstCid=&result=503&status=701&taskId=" + id + "&range="
	none := strings.Repeat("a", 64)
	for path, want := range map[string]int{
		pull + "9-1": 400, pull + "0-": 400, pull + "-5-4": 400, pull + "0-99999999999999999999": 400, pull + "1-4194304": 400, pull + "x": 400, pull: 400,
		"/peer/task?srcCid=c&taskId=" + none + "&status=700&result=502&range=&dstCid=":   404,
		"/peer/task?srcCid=c&taskId=" + id + "&status=700&result=502&range=&dstCid=":     404,
		"/peer/task?srcCid=&taskId=" + id + "&status=700&result=502&range=&dstCid=":      400,
		"/peer/task?srcCid=c&taskId=../../etc&status=700&result=502&range=&dstCid=":      400,
		"/peer/task?srcCid=a/b&taskId=" + id + "&status=700&result=502&range=&dstCid=":   400,
		"/peer/task?srcCid=c&taskId=" + id + "&status=123&result=502&range=&dstCid=":     400,
		"/peer/task?srcCid=c&taskId=" + id + "&status=many&result=502&range=&dstCid=":    400,
		"/peer/piece/suc?taskId=" + id + "&cid=nobody&dstCid=&pieceRange=":               400,
		"/peer/piece/error?taskId=" + id + "&srcCid=c&dstCid=d&errorType=WHAT&range=0-1": 400,
		"/peer/service/down?taskId=x&cid=c":                                              400,
		"/no/such/path":                                                                  404,
	} {
		status, e := send(t, http.MethodGet, base+path, "")
		require.Equal(t, want, status, "%s: %+v", path, e)
		require.Equal(t, want, e.Code, path)
	}
	// Nothing is wrong with these but that nobody knows yet, or any more, who it is.
	for path, want := range map[string]int{
		"/peer/piece/suc?taskId=" + none + "&cid=c&dstCid=&pieceRange=0-4194303":    611,
		"/peer/piece/suc?taskId=" + id + "&cid=nobody&dstCid=&pieceRange=0-4194303": 611,
		"/peer/service/down?taskId=" + none + "&cid=c":                              612,
	} {
		status, e := send(t, http.MethodGet, base+path, "")
		require.Equal(t, 200, status, "%s: %+v", path, e)
		require.Equal(t, want, e.Code, path)
	}
	status, _ := send(t, http.MethodPost, base+"/peer/registry", `{"rawUrl":"`+strings.Repeat("x", 1<<20)+`"}`)
	require.Equal(t, 413, status)
	status, _ = send(t, http.MethodGet, base+"/peer/registry", "")
	require.Equal(t, 405, status)

	requireNoWayOut(t, net.JoinHostPort(node.IP, "8001"), id)
	require.Equal(t, before, o.Total().Requests, "nothing of this reached the source")
	require.Empty(t, node.Complaints())
	entries, err := os.ReadDir(node.Home + "/repo/download")
	require.NoError(t, err)
	require.Len(t, entries, 1, "nothing of this was stored")
	other, otherSum := file(9_000_000, 21)
	o.Put("/g", other)
	onlyCodesOfAHealthyCluster(t, download(t, otherSum, peers(t, 1, o.URL("/g"), node.REST)))
}

// requireNoWayOut sends request lines that no well-behaved client would.
func requireNoWayOut(t *testing.T, address, id string) {
	t.Helper()
	for _, path := range []string{
		"/", "/download", "/download/", "/download/../../../../etc/passwd", "/download/%2e%2e/%2e%2e/etc/passwd",
		"/download/" + id[:3] + "/" + id + ".meta", "/download/" + id[:3] + "/" + id + ".md5", "/download/" + id[:3] + "/../" + id[:3] + "/" + id,
		"/download/000/" + id, "/download/" + id[:3] + "/" + id + "/..", "//download/" + id[:3] + "/" + id + "%00", "/etc/passwd", "/../etcd",
	} {
		conn, err := net.Dial("tcp4", address)
		require.NoError(t, err)
		_, err = io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		require.NoError(t, err)
		answer, err := io.ReadAll(conn)
		require.NoError(t, err)
		require.NoError(t, conn.Close())
		line, _, _ := bytes.Cut(answer, []byte("\r\n"))
		require.Contains(t, string(line), " 40", "%s: %s", path, line)
		require.NotContains(t, string(answer), "root:")
	}
}

func TestRefusalsOfTheSourceReachTheClient(t *testing.T) {
	node := oneSupernode(t)
	o := source(t)
	f, sum := file(1000, 22)
	f.RequireHeader.Name, f.RequireHeader.Value = "X-Token", "secret"
	o.Put("/locked", f)
	require.Equal(t, 607, registerCode(t, node.REST, o.URL("/missing")))
	require.Equal(t, 607, registerCode(t, node.REST, o.URL("/missing")))
	require.EqualValues(t, 1, o.Stats("/missing").Requests, "a source that refused is left alone for a while")
	require.Equal(t, 607, registerCode(t, node.REST, "http://127.0.0.1:1/f"))
	require.Equal(t, 608, registerCode(t, node.REST, o.URL("/locked")))
	allowed := peers(t, 1, o.URL("/locked"), node.REST)
	allowed[0].Headers = []string{"X-Token: secret"}
	download(t, sum, allowed)
}

func TestOperatorsPages(t *testing.T) {
	node := oneSupernode(t)
	for _, prefix := range []string{"", "/v1", "/v1.0.6"} {
		for path, has := range map[string]string{
			"/_ping": "OK", "/version": "GoVersion", "/metrics": "supernode_gateway_", "/healthz": "", "/readyz": "", "/openapi.json": "/peer/registry",
		} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+node.REST+prefix+path, nil)
			require.NoError(t, err)
			resp, err := http.DefaultClient.Do(req)
			require.NoError(t, err)
			text, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, 200, resp.StatusCode, prefix+path)
			require.Contains(t, string(text), has, prefix+path)
		}
	}
}
