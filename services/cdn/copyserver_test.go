package cdn_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/piece"
)

// copyServer is a CDN with a whole copy. It counts its calls, and it may be slow or have
// damaged pieces.
type copyServer struct {
	cdnv1.UnimplementedCdnServiceServer
	events []*cdnv1.FollowResponse // facts, pieces and result
	stat   func(n int32) error     // answers the n-th call of Stat, from 1 on
	send   http.HandlerFunc
	stats  atomic.Int32
}

// newCopyServer returns a copy server for content. bad returns the handler for a piece
// that cannot be downloaded, and nil for all others.
func newCopyServer(content []byte, etag string, bad func(num int32) http.HandlerFunc) *copyServer {
	return &copyServer{
		events: followEvents(content, etag), stat: func(int32) error { return nil },
		send: func(w http.ResponseWriter, r *http.Request) {
			num, _, _ := piece.ParseRange(r.Header.Get("Range")[len("bytes="):])
			if handler := bad(num); handler != nil {
				handler(w, r)
				return
			}
			partial206(wrapPiece(content[int(num)*full:min(len(content), (int(num)+1)*full)]))(w, r)
		},
	}
}

func allPieces(int32) http.HandlerFunc { return nil }

func (w *copyServer) Stat(context.Context, *cdnv1.StatRequest) (*cdnv1.StatResponse, error) {
	if err := w.stat(w.stats.Add(1)); err != nil {
		return nil, err
	}
	result := w.events[len(w.events)-1].GetResult()
	return &cdnv1.StatResponse{Facts: w.events[0].GetFacts(), PieceCount: result.GetPieceCount(), Result: result}, nil
}

func (w *copyServer) Follow(_ *cdnv1.FollowRequest, s cdnv1.CdnService_FollowServer) error {
	for _, e := range w.events {
		if err := s.Send(e); err != nil {
			return err
		}
	}
	return nil
}

// joinCopyServer runs a copy server and adds it to the members.
func (reg *fakeRegistry) joinCopyServer(t *testing.T, id string, w *copyServer) {
	t.Helper()
	conn, stop := serve(t, func(s grpc.ServiceRegistrar) { cdnv1.RegisterCdnServiceServer(s, w) })
	t.Cleanup(stop)
	server := httptest.NewServer(w.send)
	t.Cleanup(server.Close)
	host, port, err := net.SplitHostPort(server.Listener.Addr().String())
	require.NoError(t, err)
	number, err := strconv.Atoi(port)
	require.NoError(t, err)
	reg.addMember(&registryv1.Member{
		Id: id, Role: cluster.CDN, Endpoint: conn.Target(), DownloadIp: host, DownloadPort: int32(number),
		State: registryv1.MemberState_MEMBER_STATE_READY,
	})
}
