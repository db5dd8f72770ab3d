package wire_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/wire"
)

// exchange is a call of a real dfget 1.0.6 and its answer.
type exchange struct {
	Method, URI, Request, Response, ContentType, UserAgent string
	Status                                                 int
}

func recorded(t *testing.T) []exchange {
	t.Helper()
	text, err := os.ReadFile("../../../../peer/testdata/dfget-1.0.6.jsonl")
	require.NoError(t, err)
	var list []exchange
	for line := range bytes.Lines(text) {
		var e exchange
		require.NoError(t, json.Unmarshal(line, &e))
		list = append(list, e)
	}
	return list
}

// again writes the recorded call as the benchmark would; it is nil for one that
// the benchmark never makes.
func again(t *testing.T, w wire.Writer, e exchange) []byte {
	t.Helper()
	u, err := url.Parse(e.URI)
	require.NoError(t, err)
	q := u.Query()
	number := func(text string) int {
		n, err := strconv.Atoi(text)
		require.NoError(t, err)
		return n
	}
	piece := func(text string) wire.Piece {
		first, last, ok := strings.Cut(text, "-")
		if !ok {
			return wire.Piece{}
		}
		size := number(last) - number(first) + 1
		return wire.Piece{Num: int32(number(first) / size), Size: int32(size)}
	}
	var b []byte
	switch u.Path {
	case "/peer/registry":
		var r wire.Registration
		require.NoError(t, json.Unmarshal([]byte(e.Request), &r))
		if strings.Contains(e.Request, `"headers"`) {
			return nil
		}
		b, err = w.Register(nil, r)
		require.NoError(t, err)
	case "/task/metrics":
		var m wire.Metrics
		require.NoError(t, json.Unmarshal([]byte(e.Request), &m))
		b, err = w.Metrics(nil, m)
		require.NoError(t, err)
	case "/peer/task":
		b = w.Pull(nil, wire.Pull{
			TaskID: q.Get("taskId"), Cid: q.Get("srcCid"), From: q.Get("dstCid"), Piece: piece(q.Get("range")),
			Result: number(q.Get("result")), Status: number(q.Get("status")),
		})
	case "/peer/piece/suc":
		b = w.Written(nil, q.Get("taskId"), q.Get("cid"), q.Get("dstCid"), piece(q.Get("pieceRange")))
	case "/peer/service/down":
		b = w.Leave(nil, q.Get("taskId"), q.Get("cid"))
	default:
		t.Fatalf("a recorded call of %s", u.Path)
	}
	return b
}

func TestCallsAreThoseOfTheRecordedClient(t *testing.T) {
	w, err := wire.NewWriter("127.0.0.5:8002")
	require.NoError(t, err)
	compared := 0
	for _, e := range recorded(t) {
		b := again(t, w, e)
		if b == nil {
			continue
		}
		compared++
		request, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
		require.NoError(t, err)
		body, err := io.ReadAll(request.Body)
		require.NoError(t, err)
		require.Equal(t, e.URI, request.RequestURI)
		require.Equal(t, e.Method, request.Method)
		require.Equal(t, e.Request, string(body))
		require.Equal(t, e.ContentType, request.Header.Get("Content-Type"))
		require.Equal(t, e.UserAgent, request.UserAgent())
		require.Equal(t, "127.0.0.5:8002", request.Host)
	}
	require.Greater(t, compared, 25)
}

func TestAnswersAreThoseOfTheRecordedServer(t *testing.T) {
	for _, e := range recorded(t) {
		code, err := wire.ReadCode([]byte(e.Response))
		require.NoError(t, err)
		var want struct {
			Code int
			Data json.RawMessage
		}
		require.NoError(t, json.Unmarshal([]byte(e.Response), &want))
		require.Equal(t, want.Code, code)
		if !strings.HasPrefix(e.URI, "/peer/task?") {
			continue
		}
		var a wire.Answer
		require.NoError(t, a.Read([]byte(e.Response)))
		require.Equal(t, want.Code, a.Code)
		var offers []struct {
			PieceNum, PieceSize int32
			Cid                 string
		}
		if want.Code == wire.CodeContinue {
			require.NoError(t, json.Unmarshal(want.Data, &offers))
			require.NotEmpty(t, offers)
		}
		require.Len(t, a.Offers, len(offers))
		for i, o := range offers {
			require.Equal(t, wire.Offer{Piece: wire.Piece{Num: o.PieceNum, Size: o.PieceSize}, Cid: []byte(o.Cid)}, a.Offers[i])
			require.True(t, wire.IsCDN(o.Cid))
		}
	}
}

func TestRegistrationIsRead(t *testing.T) {
	code, r, err := wire.ReadRegistered([]byte(recorded(t)[0].Response))
	require.NoError(t, err)
	require.Equal(t, wire.CodeSuccess, code)
	require.Equal(t, wire.Registered{
		TaskID: "cd71c34dd87c301ae592859bc137bada697da48f11dd1f9b4f5f9d1690c5ce85", FileLength: 9_000_000, PieceSize: 4 << 20,
	}, r)
	code, _, err = wire.ReadRegistered([]byte(`{"code":607,"msg":"x"}`))
	require.NoError(t, err)
	require.Equal(t, 607, code)
	_, _, err = wire.ReadRegistered([]byte(`{"code":200}`))
	require.Error(t, err)
}

func TestAnswersInAnyForm(t *testing.T) {
	var a wire.Answer
	require.NoError(t, a.Read([]byte(" { \"data\" : [ {\"x\":[{\"y\":null},-1.5e3,true], \"cid\":\"p\\\"q\", \"range\":\"8-15\",\n\"pieceSize\":8,\"pieceNum\":1} ] ,\"code\": 601 } ")))
	require.Equal(t, 601, a.Code)
	require.Equal(t, []wire.Offer{{Piece: wire.Piece{Num: 1, Size: 8}, Cid: []byte(`p\"q`)}}, a.Offers)
	require.NoError(t, a.Read([]byte(`{"code":602,"data":null,"msg":"a \"b\" {"}`)))
	require.Equal(t, 602, a.Code)
	require.Empty(t, a.Offers)
	for _, text := range []string{
		``, `null`, `{`, `{"code"}`, `{"code":"601"}`, `{"code":601`, `{"code":601,"data":[{]}`, `{"data":[{"range":"0-7","pieceNum":1,"pieceSize":8}]}`,
		`{"data":[{"pieceNum":-1}]}`, `{"data":[{"pieceNum":99999999999}]}`, `{"a":` + strings.Repeat("[", 100), `{"a":"\`,
	} {
		require.Error(t, a.Read([]byte(text)), text)
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"code":601,"data":[{"range":"0-7","pieceNum":0,"pieceSize":8,"cid":"cdnnode:x","downLink":0}]}`))
	f.Add([]byte(`{"code":602,"msg":"\\"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var a wire.Answer
		if a.Read(body) == nil && len(body) > 0 {
			for _, o := range a.Offers {
				require.GreaterOrEqual(t, o.Num, int32(0))
				require.GreaterOrEqual(t, o.Size, int32(0))
			}
		}
		_, _ = wire.ReadCode(body)
	})
}
