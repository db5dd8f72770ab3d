package cdn_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/services/cdn"
)

// liar is a CDN as none of ours is: it tells what the test tells it to and
// sends what it likes.
type liar struct {
	cdnv1.UnimplementedCdnServiceServer
	events  []*cdnv1.FollowResponse
	follows atomic.Int32
	asked   atomic.Int32
	send    http.HandlerFunc
}

func (l *liar) Follow(_ *cdnv1.FollowRequest, s cdnv1.CdnService_FollowServer) error {
	l.follows.Add(1)
	for _, e := range l.events {
		if err := s.Send(e); err != nil {
			return err
		}
	}
	<-s.Context().Done()
	return s.Context().Err()
}

func (l *liar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.asked.Add(1)
	l.send(w, r)
}

// joinLiar makes one a member of the hall.
func (h *hall) joinLiar(t *testing.T, id string, l *liar) {
	t.Helper()
	conn, stop := serve(t, func(s grpc.ServiceRegistrar) { cdnv1.RegisterCdnServiceServer(s, l) })
	t.Cleanup(stop)
	server := httptest.NewServer(l)
	t.Cleanup(server.Close)
	host, port, err := net.SplitHostPort(server.Listener.Addr().String())
	require.NoError(t, err)
	number, err := strconv.Atoi(port)
	require.NoError(t, err)
	h.enter(&registryv1.Member{
		Id: id, Role: cluster.CDN, Endpoint: conn.Target(), DownloadIp: host, DownloadPort: int32(number),
		State: registryv1.MemberState_MEMBER_STATE_READY,
	})
}

// wrap makes a piece of content.
func wrap(content []byte) []byte {
	wrapped := make([]byte, piece.HeadLength, len(content)+piece.WrapLength)
	piece.PutHead(wrapped, len(content), size)
	return append(append(wrapped, content...), piece.Tail)
}

// tell makes the events of a copy.
func tell(content []byte, etag string) []*cdnv1.FollowResponse {
	events := []*cdnv1.FollowResponse{{Event: &cdnv1.FollowResponse_Facts{Facts: &cdnv1.SourceFacts{
		Length: int64(len(content)), PieceSize: size, Etag: etag, LastModified: modified.Format(http.TimeFormat),
	}}}}
	var count int32
	for first := 0; first < len(content); first += full {
		wrapped := wrap(content[first:min(len(content), first+full)])
		events = append(events, &cdnv1.FollowResponse{Event: &cdnv1.FollowResponse_Piece{
			Piece: &cdnv1.Piece{Num: count, Md5: sum(wrapped), Length: int32(len(wrapped))},
		}})
		count++
	}
	return append(events, &cdnv1.FollowResponse{Event: &cdnv1.FollowResponse_Result{
		Result: &cdnv1.SeedResult{Md5: sum(content), Length: int64(len(content)), PieceCount: count},
	}})
}

func partial206(body []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(body)
	}
}

// A replica takes no wrong byte from its owner, goes on trying, and becomes
// whole from another copy.
func TestOwnerThatLies(t *testing.T) {
	content := noise(2*full + 100)
	other := noise(2*full + 101)[:2*full+100]
	wrong := wrap(content[:full])
	wrong[1000]++
	lastTold := func(num int32, length int32) []*cdnv1.FollowResponse {
		return append(tell(content, `"v1"`)[:1], &cdnv1.FollowResponse{Event: &cdnv1.FollowResponse_Piece{
			Piece: &cdnv1.Piece{Num: num, Md5: sum(nil), Length: length},
		}})
	}
	for name, l := range map[string]*liar{
		"wrong bytes":        {events: tell(content, `"v1"`), send: partial206(wrong)},
		"too few bytes":      {events: tell(content, `"v1"`), send: partial206(wrong[:100])},
		"refuses":            {events: tell(content, `"v1"`), send: answer(416)},
		"hangs":              {events: tell(content, `"v1"`), send: func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
		"hangs in mid-piece": {events: tell(content, `"v1"`), send: newGate(t, wrap(content[:full]), 1000).in206()},
		"other version":      {events: tell(other, `"v2"`), send: partial206(wrong)},
		"impossible piece":   {events: lastTold(9, size), send: answer(404)},
		"negative piece":     {events: lastTold(-1, size), send: answer(404)},
		"long piece":         {events: lastTold(0, size+1), send: answer(404)},
		"piece before facts": {events: tell(content, `"v1"`)[1:2], send: answer(404)},
		"no size": {events: []*cdnv1.FollowResponse{{Event: &cdnv1.FollowResponse_Facts{
			Facts: &cdnv1.SourceFacts{Length: 5},
		}}}, send: answer(404)},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHall(t)
			o := serveOrigin(t, file(content, `"v1"`))
			id := idOf("lied")
			good := h.join(t, "good", cdn.Config{})
			got, err := hear(good.small(t, id, o.source()))
			require.NoError(t, err)
			h.joinLiar(t, "liar", l)
			h.writeFacts(id, o, 8, got.facts, "liar", "b")
			b := h.join(t, "b", cdn.Config{CopyTimeout: time.Second})
			eventually(t, func() bool { return l.follows.Load() > 1 })
			s, err := b.Stat(t.Context(), &cdnv1.StatRequest{TaskId: id})
			require.NoError(t, err)
			require.Zero(t, s.GetPieceCount())
			h.writeFacts(id, o, 8, got.facts, "liar", "good", "b")
			b.awaitWhole(t, id, content)
			sameFiles(t, id, good, b)
		})
	}
}

// in206 makes the gate's answer a 206.
func (g *gate) in206() http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { g.ServeHTTP(&partial{w}, r) }
}

// A replica whose disk is full is lost, and says so once.
func TestReplicaWithAFullDisk(t *testing.T) {
	signal.Ignore(syscall.SIGXFSZ)
	t.Cleanup(func() { signal.Reset(syscall.SIGXFSZ) })
	content := noise(20 * full)
	h := newHall(t)
	l := &liar{events: tell(content, `"v1"`), send: func(w http.ResponseWriter, r *http.Request) {
		num, _, _ := piece.ParseRange(r.Header.Get("Range")[len("bytes="):])
		partial206(wrap(content[int(num)*full:min(len(content), (int(num)+1)*full)]))(w, r)
	}}
	h.joinLiar(t, "owner", l)
	b := h.join(t, "b", cdn.Config{})
	id := idOf("full")
	var before syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before))
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 10 * size, Max: before.Max}))
	t.Cleanup(func() { require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before)) })
	h.write(id, serveOrigin(t, bare(nil)), 7, "owner", "b")
	eventually(t, func() bool { return len(h.resigned(id)) > 0 })
	requireNoFiles(t, b, id)
	eventually(t, func() bool {
		_, err := b.Stat(t.Context(), &cdnv1.StatRequest{TaskId: id})
		return err != nil
	})
	require.EqualValues(t, 1, l.follows.Load(), "it does not try again by itself")
}
