package gateway_test

import (
	"encoding/base64"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/services/gateway"
)

const (
	taskA  = "cd71c34dd87c301ae592859bc137bada697da48f11dd1f9b4f5f9d1690c5ce85"
	cidA   = "127.0.4.1-1961-1795370490.359"
	good   = `{"rawUrl":"http://127.0.0.9:9000/f9.bin","cid":"` + cidA + `","ip":"127.0.4.1","port":20000,"path":"/peer/file/x"}`
	pullA  = "/peer/task?srcCid=" + cidA + "&dstCid=&range=&result=502&status=700&taskId=" + taskA
	sucA   = "/peer/piece/suc?taskId=" + taskA + "&cid=" + cidA + "&dstCid=&pieceRange=0-4194303"
	errorA = "/peer/piece/error?errorType=FILE_NOT_EXIST&srcCid=" + cidA + "&dstCid=x&dstIp=127.0.0.1&taskId=" + taskA + "&range=&realMd5=&expectedMd5="
	downA  = "/peer/service/down?taskId=" + taskA + "&cid=" + cidA
	countA = `{"IP":"127.0.4.1","backsourceReason":"0","cID":"` + cidA + `","duration":0.5,"fileLength":9000000,"port":49568,"success":true,"taskId":"` + taskA + `"}`
)

// with returns the good registration with old replaced. It must contain old.
func with(t *testing.T, old, replacement string) string {
	t.Helper()
	require.Contains(t, good, old)
	return strings.Replace(good, old, replacement, 1)
}

func TestInvalidRegistrationIsRejected(t *testing.T) {
	s := &scheduler{id: "s1"}
	gw := start(t, gateway.Config{}, s)
	bad := map[string]string{
		"truncated value":    `{"rawUrl":`,
		"truncated":          good[:len(good)-1],
		"trailing":           good + `{}`,
		"array":              `[]`,
		"text":               `"x"`,
		"nothing":            ``,
		"null":               `null`,
		"empty":              `{}`,
		"no cid":             with(t, cidA, ""),
		"cid as number":      with(t, `"`+cidA+`"`, `5`),
		"slash in cid":       with(t, cidA, "a/b"),
		"dots in cid":        with(t, cidA, "a..b"),
		"space in cid":       with(t, cidA, "a b"),
		"newline in cid":     with(t, cidA, `a\nb`),
		"long cid":           with(t, cidA, strings.Repeat("c", 256)),
		"no url":             with(t, "http://127.0.0.9:9000/f9.bin", ""),
		"url without host":   with(t, "http://127.0.0.9:9000/f9.bin", "http:///x"),
		"url of a file":      with(t, "http://127.0.0.9:9000/f9.bin", "file:///etc/passwd"),
		"url as words":       with(t, "http://127.0.0.9:9000/f9.bin", "hello"),
		"url with bad port":  with(t, "http://127.0.0.9:9000/f9.bin", "http://h:99999/"),
		"url with newline":   with(t, "http://127.0.0.9:9000/f9.bin", `http://h/a\nb`),
		"taskUrl of a file":  with(t, `"port"`, `"taskUrl":"file:///x","port"`),
		"no ip":              with(t, `"127.0.4.1"`, `""`),
		"ip as words":        with(t, `"127.0.4.1"`, `"host"`),
		"IPv6":               with(t, `"127.0.4.1"`, `"::1"`),
		"mapped IPv4":        with(t, `"127.0.4.1"`, `"::ffff:1.2.3.4"`),
		"unspecified":        with(t, `"127.0.4.1"`, `"0.0.0.0"`),
		"multicast":          with(t, `"127.0.4.1"`, `"224.0.0.1"`),
		"broadcast":          with(t, `"127.0.4.1"`, `"255.255.255.255"`),
		"low port":           with(t, "20000", "14999"),
		"high port":          with(t, "20000", "65001"),
		"negative port":      with(t, "20000", "-1"),
		"huge port":          with(t, "20000", "99999999999"),
		"port as text":       with(t, "20000", `"20000"`),
		"half a port":        with(t, "20000", "20000.5"),
		"path without slash": with(t, "/peer/file/x", "peer"),
		"path upwards":       with(t, "/peer/file/x", "/peer/../x"),
		"path with control":  with(t, "/peer/file/x", `/peer\u0000`),
		"md5 as words":       with(t, `"port"`, `"md5":"hello","port"`),
		"capital md5":        with(t, `"port"`, `"md5":"5EE6E6B7111484EB8497DC660BE97783","port"`),
		"header's host":      with(t, `"port"`, `"headers":["Host: a b/c"],"port"`),
		"two ranges":         with(t, `"port"`, `"headers":["Range: bytes=0-1","range:bytes=2-3"],"port"`),
		"no certificate":     with(t, `"port"`, `"rootCAs":["cGVt"],"port"`),
		"header's name":      with(t, `"port"`, `"headers":["a b: c"],"port"`),
		"header's value":     with(t, `"port"`, `"headers":["a: b\nc: d"],"port"`),
		"headers as text":    with(t, `"port"`, `"headers":"a: b","port"`),
		"header as number":   with(t, `"port"`, `"headers":[1],"port"`),
		"rootCAs":            with(t, `"port"`, `"rootCAs":["***"],"port"`),
		"dfdaemon as text":   with(t, `"port"`, `"dfdaemon":"true","port"`),
		"not UTF-8":          with(t, cidA, "\xff\xfe"),
	}
	for name, body := range bad {
		got := gw.post("/peer/registry", body)
		require.Equal(t, http.StatusBadRequest, got.status, "%s: %s", name, got.raw)
		requireEnvelope(t, got)
	}
	require.Empty(t, s.calls())
	gw.requireNoWarnings()
	require.Equal(t, 200, gw.post("/peer/registry", good).code())
}

// requireEnvelope checks that the answer is an error in the common JSON form.
func requireEnvelope(t *testing.T, a answer) {
	t.Helper()
	require.Equal(t, a.status, a.code(), a.raw)
	require.NotEmpty(t, a.body["msg"], a.raw)
	require.Equal(t, a.body["msg"], a.body["message"])
	require.Equal(t, "application/json", a.header.Get("Content-Type"))
}

func TestInvalidQueryIsRejected(t *testing.T) {
	s := &scheduler{id: "s1"}
	gw := start(t, gateway.Config{}, s)
	running := strings.Replace(strings.Replace(pullA, "status=700", "status=701", 1), "result=502", "result=501", 1)
	bad := map[string]string{
		"no task":        strings.Replace(pullA, taskA, "", 1),
		"task upwards":   strings.Replace(pullA, taskA, "../../etc/passwd", 1),
		"capital task":   strings.Replace(pullA, taskA, strings.ToUpper(taskA), 1),
		"no cid":         strings.Replace(pullA, cidA, "", 1),
		"cid upwards":    strings.Replace(pullA, cidA, "..", 1),
		"encoded slash":  strings.Replace(pullA, cidA, "a%2Fb", 1),
		"dstCid":         strings.Replace(pullA, "dstCid=", "dstCid=a/b", 1),
		"status":         strings.Replace(pullA, "status=700", "status=703", 1),
		"no status":      strings.Replace(pullA, "status=700", "status=", 1),
		"status of word": strings.Replace(pullA, "status=700", "status=up", 1),
		"result":         strings.Replace(pullA, "result=502", "result=504", 1),
		"range needed":   running,
		"not UTF-8":      strings.Replace(pullA, cidA, "%ff", 1),
		"suc no range":   strings.Replace(sucA, "0-4194303", "", 1),
		"suc no cid":     strings.Replace(sucA, cidA, "", 1),
		"error type":     strings.Replace(errorA, "FILE_NOT_EXIST", "FILE", 1),
		"error task":     strings.Replace(errorA, taskA, "x", 1),
		"error ip":       strings.Replace(errorA, "127.0.0.1", "host", 1),
		"down no task":   strings.Replace(downA, taskA, "", 1),
		"down no cid":    strings.Replace(downA, cidA, "", 1),
	}
	for _, r := range []string{"9-1", "0-", "-1-5", "-5", "0-0", "1-4194304", "0-99999999999999999999", "a-b", "0-4194303-1", "+0-4194303", "00-4194303"} {
		bad["pull range "+r] = strings.Replace(running, "range=", "range="+r, 1)
		bad["suc range "+r] = strings.Replace(sucA, "0-4194303", r, 1)
		bad["error range "+r] = strings.Replace(errorA, "range=", "range="+r, 1)
	}
	for name, uri := range bad {
		got := gw.get(uri)
		require.Equal(t, http.StatusBadRequest, got.status, "%s: %s", name, got.raw)
		requireEnvelope(t, got)
	}
	require.Empty(t, s.calls())
	gw.requireNoWarnings()
	require.Equal(t, 602, gw.get(pullA).code())
}

func TestInvalidBodyOfAReportIsRejected(t *testing.T) {
	s := &scheduler{id: "s1"}
	gw := start(t, gateway.Config{}, s)
	replace := func(old, replacement string) string {
		require.Contains(t, countA, old)
		return strings.Replace(countA, old, replacement, 1)
	}
	for name, body := range map[string]string{
		"no task":           replace(taskA, ""),
		"no cid":            replace(cidA, ""),
		"negative duration": replace("0.5", "-1"),
		"huge duration":     replace("0.5", "1e300"),
		"infinite duration": replace("0.5", "1e999"),
		"negative length":   replace("9000000", "-2"),
		"reason as words":   replace(`"backsourceReason":"0"`, `"backsourceReason":"x"`),
		"reason as number":  replace(`"backsourceReason":"0"`, `"backsourceReason":0`),
		"negative port":     replace("49568", "-1"),
		"success as number": replace("true", "1"),
	} {
		got := gw.post("/task/metrics", body)
		require.Equal(t, http.StatusBadRequest, got.status, "%s: %s", name, got.raw)
		requireEnvelope(t, got)
	}
	require.Empty(t, s.calls())
	require.Equal(t, 1, gw.post("/task/metrics", replace("9000000", "-1")).code())
	require.Equal(t, 400, gw.post("/peer/heartbeat", `{"cID":"a/b"}`).status)
	require.Equal(t, 400, gw.post("/peer/network?start=-1", `{}`).status)
	require.Equal(t, 400, gw.post("/peer/network?limit=x", `{}`).status)
	gw.requireNoWarnings()
}

func TestBodyOverTheLimitIsRejected(t *testing.T) {
	s := &scheduler{id: "s1"}
	gw := start(t, gateway.Config{}, s)
	body := []byte(`{"hostName":"` + strings.Repeat("x", 1<<20) + `"}`)
	got := gw.send(http.MethodPost, "/peer/registry", "application/json", body)
	require.Equal(t, http.StatusRequestEntityTooLarge, got.status)
	requireEnvelope(t, got)

	// Without a Content-Length the server detects the size while it reads.
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, gw.base+"/peer/registry", struct{ *strings.Reader }{strings.NewReader(string(body))})
	require.NoError(t, err)
	req.ContentLength = -1
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusRequestEntityTooLarge, resp.StatusCode)

	fits := []byte(`{"unknown":"` + strings.Repeat("x", 1<<20-len(good)-14) + `",` + good[1:])
	require.LessOrEqual(t, len(fits), 1<<20)
	require.Equal(t, 200, gw.send(http.MethodPost, "/peer/registry", "application/json", fits).code())
	require.Len(t, s.calls(), 1)
	gw.requireNoWarnings()
}

func TestUnknownPathIs404AndWrongMethodIs405(t *testing.T) {
	gw := start(t, gateway.Config{}, &scheduler{id: "s1"})
	for _, path := range []string{"/", "/peer", "/peer/", "/peer/task/", "/peer/task:x", "/v1.0/v1.0/_ping", "/vx/_ping", "/v1.0", "/debug/pprof/"} {
		got := gw.get(path)
		require.Equal(t, http.StatusNotFound, got.status, path)
		requireEnvelope(t, got)
	}
	for path, method := range map[string]string{
		pullA: "POST", "/peer/registry": "GET", "/task/metrics": "GET", sucA: "DELETE", downA: "HEAD", "/_ping": "POST", "/v2/peer/heartbeat": "GET",
	} {
		got := gw.send(method, path, "application/x-www-form-urlencoded", nil)
		require.Equal(t, http.StatusMethodNotAllowed, got.status, path)
		require.NotEmpty(t, got.header.Get("Allow"))
		if method != "HEAD" {
			requireEnvelope(t, got)
		}
	}
	gw.requireNoWarnings()
}

func TestRegistrationIsTheSameInEveryEncoding(t *testing.T) {
	s := &scheduler{id: "s1"}
	gw := start(t, gateway.Config{}, s)
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	secure.Close()
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
	const asForm = "application/x-www-form-urlencoded"
	for _, in := range []struct{ contentType, body string }{
		{"application/json;charset=utf-8", `{"rawUrl":"http://h/f?a=b+c","cid":"c1","ip":"10.0.0.1","hostName":"h 1","port":20000,"path":"/p","headers":["A: b","C: d"],"rootCAs":["cGVt"],"insecure":true,"md5":"5ee6e6b7111484eb8497dc660be97783"}`},
		{"application/json", `{"RAWURL":"http://h/f?a=b+c","cID":"c1","Ip":"10.0.0.1","HostName":"h 1","PORT":20000,"Path":"/p","Headers":["A:b","C : d"],"rootcas":["cGVt"],"Insecure":true,"MD5":"5ee6e6b7111484eb8497dc660be97783","other":{"x":[1]},"version":null}`},
		{"", ` {"rawURL":"http://h/f?a=b+c","taskURL":"","cID":"c1","IP":"10.0.0.1","hostName":"h 1","port":20000,"path":"/p","headers":["A: b","C: d"],"rootCAs":["cGVt"],"insecure":true,"md5":"5ee6e6b7111484eb8497dc660be97783","taskId":"nonsense","fileLength":-5,"asSeed":true} `},
		{asForm, "rawUrl=http%3A%2F%2Fh%2Ff%3Fa%3Db%2Bc&cid=c1&ip=10.0.0.1&hostName=h+1&port=20000&path=%2Fp&headers=A%3A+b&headers=C%3A+d&rootCAs=cGVt&insecure=true&md5=5ee6e6b7111484eb8497dc660be97783&version="},
		{asForm + "; charset=utf-8", "RawURL=http://h/f?a=b%2Bc&cID=c1&IP=10.0.0.1&hostname=h%201&Port=20000&path=/p&headers[]=A: b&headers[]=C: d&rootCAs=cGVt&insecure=true&md5=5ee6e6b7111484eb8497dc660be97783&other=1&fileLength="},
		{asForm, `{"rawUrl":"http://h/f?a=b+c","cid":"c1","ip":"10.0.0.1","hostName":"h 1","port":20000,"path":"/p","headers":["A: b","C: d"],"rootCAs":["cGVt"],"insecure":true,"md5":"5ee6e6b7111484eb8497dc660be97783"}`},
	} {
		encoded := base64.StdEncoding.EncodeToString(certificate)
		if !strings.HasPrefix(strings.TrimSpace(in.body), "{") {
			encoded = url.QueryEscape(encoded)
		}
		body := strings.Replace(in.body, "cGVt", encoded, 1)
		got := gw.send(http.MethodPost, "/peer/registry", in.contentType, []byte(body))
		require.Equal(t, 200, got.code(), "%s: %s", body, got.raw)
	}
	calls := s.calls()
	first := calls[0].(*schedulerv1.RegisterPeerRequest)
	require.Equal(t, []string{"A: b", "C: d"}, first.GetSource().GetHeaders())
	require.Equal(t, "http://h/f?a=b+c", first.GetTaskUrl())
	require.Equal(t, "h 1", first.GetPeer().GetHostName())
	require.Equal(t, [][]byte{certificate}, first.GetSource().GetRootCas())
	for _, c := range calls[1:] {
		require.True(t, proto.Equal(first, c.(proto.Message)), "%v\n%v", first, c)
	}

	got := gw.send(http.MethodPost, "/peer/registry", asForm, []byte("rawUrl=http://h/&cid=c1&ip=10.0.0.1&port=x"))
	require.Equal(t, http.StatusBadRequest, got.status)
	got = gw.send(http.MethodPost, "/peer/registry", asForm, []byte("rawUrl=http://h/&cid=a/b&ip=10.0.0.1"))
	require.Equal(t, http.StatusBadRequest, got.status)
	gw.requireNoWarnings()
}

// dfget does not URL-encode its queries.
func TestUnencodedQueryOfDfgetIsAccepted(t *testing.T) {
	s := &scheduler{id: "s1"}
	gw := start(t, gateway.Config{}, s)
	cid := `h+1;x%zz%4~"<>`
	uri := "/peer/task?SRCCID=" + cid + "&dstcid=cdnnode:127.0.0.5~" + taskA + "&unknown=;&range=4194304-8388607&result=503&status=700&TaskID=" + taskA + "&pad=" + strings.Repeat("p", 60<<10)
	require.Equal(t, 602, gw.get(uri).code())
	in := s.calls()[0].(*schedulerv1.PullPiecesRequest)
	require.Equal(t, cid, in.GetPeerId())
	require.Equal(t, "cdnnode:127.0.0.5~"+taskA, in.GetDstId())
	require.Equal(t, schedulerv1.PullStatus_PULL_STATUS_STARTED, in.GetStatus())
	require.Equal(t, schedulerv1.PieceResult_PIECE_RESULT_SEMI_SUCCESS, in.GetResult())
	require.EqualValues(t, 1, in.GetPiece().GetNum())
	require.EqualValues(t, 4<<20, in.GetPiece().GetSize())
	require.Equal(t, 602, gw.get(strings.Replace(pullA, "result=502", "result=", 1)).code())
}
