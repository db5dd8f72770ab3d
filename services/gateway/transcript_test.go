package gateway_test

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/gateway"

	"google.golang.org/grpc/codes"
)

// exchange is one call of a real dfget 1.0.6 and the answer of the original server.
type exchange struct {
	Method, URI, Request, Response, ContentType string
	Status                                      int
}

// readTranscript reads the recorded calls.
func readTranscript(t *testing.T) []exchange {
	t.Helper()
	f, err := os.Open("testdata/dfget-1.0.6.jsonl")
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	var all []exchange
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e exchange
		require.NoError(t, json.Unmarshal(lines.Bytes(), &e))
		all = append(all, e)
	}
	require.NoError(t, lines.Err())
	require.Greater(t, len(all), 30)
	return all
}

// The test replays the calls of a real client. The scheduler returns what the
// recorded answers contain.
func TestRecordedCallsGetTheRecordedAnswers(t *testing.T) {
	s := &scheduler{id: "s1"}
	gw := start(t, gateway.Config{}, s)
	for _, e := range readTranscript(t) {
		want := e.Response
		status := e.Status
		switch {
		case e.URI == "/task/metrics":
			want = `{"code":1}` // the original's answer made clients report twice
		case e.Status == 500:
			status, want = 200, `{"code":607,"msg":"not there"}`
			s.register = func(context.Context, *schedulerv1.RegisterPeerRequest) (*schedulerv1.RegisterPeerResponse, error) {
				return nil, rpcerr.New(codes.NotFound, rpcerr.SourceNotFound, "not there")
			}
		case e.URI == "/peer/registry":
			s.register = recordedRegister(t, e.Response)
		case strings.HasPrefix(e.URI, "/peer/task?"):
			s.pull = recordedPull(t, e.Response)
		}
		got := gw.send(e.Method, e.URI, e.ContentType, []byte(e.Request))
		require.Equal(t, status, got.status, "%s: %s", e.URI, got.raw)
		require.JSONEq(t, want, got.raw, e.URI)
		require.Equal(t, "application/json", got.header.Get("Content-Type"))
		require.True(t, strings.HasSuffix(got.raw, "\n"))
	}
	gw.requireNoWarnings()
}

// recordedRegister returns a register function for a recorded answer.
func recordedRegister(t *testing.T, response string) func(context.Context, *schedulerv1.RegisterPeerRequest) (*schedulerv1.RegisterPeerResponse, error) {
	var r struct {
		Data struct {
			FileLength int64
			PieceSize  int32
		}
	}
	require.NoError(t, json.Unmarshal([]byte(response), &r))
	return func(_ context.Context, in *schedulerv1.RegisterPeerRequest) (*schedulerv1.RegisterPeerResponse, error) {
		return &schedulerv1.RegisterPeerResponse{TaskId: in.GetTaskId(), Length: r.Data.FileLength, PieceSize: r.Data.PieceSize}, nil
	}
}

// recordedPull returns a pull function for a recorded answer.
func recordedPull(t *testing.T, response string) func(context.Context, *schedulerv1.PullPiecesRequest) (*schedulerv1.PullPiecesResponse, error) {
	var r struct {
		Code int
		Msg  string
		Data json.RawMessage
	}
	require.NoError(t, json.Unmarshal([]byte(response), &r))
	out := waitAnswer(r.Msg)
	switch r.Code {
	case 600:
		var f schedulerv1.Finished
		var data struct {
			MD5        string
			FileLength int64
		}
		require.NoError(t, json.Unmarshal(r.Data, &data))
		f.Md5, f.WrappedLength = data.MD5, data.FileLength
		out.Answer = &schedulerv1.PullPiecesResponse_Finished{Finished: &f}
	case 601:
		out.Answer = &schedulerv1.PullPiecesResponse_Offers{Offers: recordedOffers(t, r.Data)}
	}
	return func(context.Context, *schedulerv1.PullPiecesRequest) (*schedulerv1.PullPiecesResponse, error) {
		return out, nil
	}
}

// recordedOffers converts the pieces of a recorded answer.
func recordedOffers(t *testing.T, data json.RawMessage) *schedulerv1.PieceOffers {
	var pieces []struct {
		PieceNum, PieceSize, PeerPort int32
		PieceMd5, Cid, PeerIP, Path   string
	}
	require.NoError(t, json.Unmarshal(data, &pieces))
	offers := &schedulerv1.PieceOffers{}
	for _, p := range pieces {
		md5, length, err := piece.ParseDigest(p.PieceMd5)
		require.NoError(t, err)
		offers.Items = append(offers.Items, &schedulerv1.PieceOffer{
			Num: p.PieceNum, Size: p.PieceSize, Md5: md5, Length: length,
			PeerId: p.Cid, Ip: p.PeerIP, Port: p.PeerPort, Path: p.Path,
		})
	}
	return offers
}
