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

// scriptedCDN is a CDN that sends the events and the bytes of the test, which need not be
// valid.
type scriptedCDN struct {
	cdnv1.UnimplementedCdnServiceServer
	events  []*cdnv1.FollowResponse
	follows atomic.Int32
	asked   atomic.Int32
	send    http.HandlerFunc
}

func (fake *scriptedCDN) Follow(_ *cdnv1.FollowRequest, s cdnv1.CdnService_FollowServer) error {
	fake.follows.Add(1)
	for _, e := range fake.events {
		if err := s.Send(e); err != nil {
			return err
		}
	}
	<-s.Context().Done()
	return s.Context().Err()
}

func (fake *scriptedCDN) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	fake.asked.Add(1)
	fake.send(w, r)
}

// joinScriptedCDN runs a scripted CDN and adds it to the members.
func (reg *fakeRegistry) joinScriptedCDN(t *testing.T, id string, fake *scriptedCDN) {
	t.Helper()
	conn, stop := serve(t, func(s grpc.ServiceRegistrar) { cdnv1.RegisterCdnServiceServer(s, fake) })
	t.Cleanup(stop)
	server := httptest.NewServer(fake)
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

// wrapPiece returns content as a wrapped piece.
func wrapPiece(content []byte) []byte {
	wrapped := make([]byte, piece.HeadLength, len(content)+piece.WrapLength)
	piece.PutHead(wrapped, len(content), size)
	return append(append(wrapped, content...), piece.Tail)
}

// followEvents returns the events of a whole copy.
func followEvents(content []byte, etag string) []*cdnv1.FollowResponse {
	events := []*cdnv1.FollowResponse{{Event: &cdnv1.FollowResponse_Facts{Facts: &cdnv1.SourceFacts{
		Length: int64(len(content)), PieceSize: size, Etag: etag, LastModified: modified.Format(http.TimeFormat),
	}}}}
	var count int32
	for first := 0; first < len(content); first += full {
		wrapped := wrapPiece(content[first:min(len(content), first+full)])
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

// A replica accepts no invalid data of its owner, continues to retry, and completes its
// copy from another replica.
func TestReplicaRejectsInvalidAnswersOfItsOwner(t *testing.T) {
	content := randomContent(2*full + 100)
	other := randomContent(2*full + 101)[:2*full+100]
	wrong := wrapPiece(content[:full])
	wrong[1000]++
	factsAndPiece := func(num int32, length int32) []*cdnv1.FollowResponse {
		return append(followEvents(content, `"v1"`)[:1], &cdnv1.FollowResponse{Event: &cdnv1.FollowResponse_Piece{
			Piece: &cdnv1.Piece{Num: num, Md5: sum(nil), Length: length},
		}})
	}
	for name, fake := range map[string]*scriptedCDN{
		"wrong bytes":        {events: followEvents(content, `"v1"`), send: partial206(wrong)},
		"too few bytes":      {events: followEvents(content, `"v1"`), send: partial206(wrong[:100])},
		"refuses":            {events: followEvents(content, `"v1"`), send: answer(416)},
		"hangs":              {events: followEvents(content, `"v1"`), send: func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
		"hangs in mid-piece": {events: followEvents(content, `"v1"`), send: newGate(t, wrapPiece(content[:full]), 1000).in206()},
		"other version":      {events: followEvents(other, `"v2"`), send: partial206(wrong)},
		"impossible piece":   {events: factsAndPiece(9, size), send: answer(404)},
		"negative piece":     {events: factsAndPiece(-1, size), send: answer(404)},
		"long piece":         {events: factsAndPiece(0, size+1), send: answer(404)},
		"piece before facts": {events: followEvents(content, `"v1"`)[1:2], send: answer(404)},
		"no size": {events: []*cdnv1.FollowResponse{{Event: &cdnv1.FollowResponse_Facts{
			Facts: &cdnv1.SourceFacts{Length: 5},
		}}}, send: answer(404)},
	} {
		t.Run(name, func(t *testing.T) {
			reg := newFakeRegistry(t)
			o := serveOrigin(t, file(content, `"v1"`))
			id := idOf("invalid")
			good := reg.join(t, "good", cdn.Config{})
			got, err := receiveAll(good.seedSmall(t, id, o.source()))
			require.NoError(t, err)
			reg.joinScriptedCDN(t, "bad", fake)
			reg.writeFacts(id, o, 8, got.facts, "bad", "b")
			b := reg.join(t, "b", cdn.Config{CopyTimeout: time.Second})
			eventually(t, func() bool { return fake.follows.Load() > 1 })
			s, err := b.Stat(t.Context(), &cdnv1.StatRequest{TaskId: id})
			require.NoError(t, err)
			require.Zero(t, s.GetPieceCount())
			reg.writeFacts(id, o, 8, got.facts, "bad", "good", "b")
			b.awaitWhole(t, id, content)
			sameFiles(t, id, good, b)
		})
	}
}

// in206 returns the gate as a handler that answers with 206.
func (g *gate) in206() http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { g.ServeHTTP(&partial{w}, r) }
}

// A replica whose disk is full resigns once.
func TestReplicaWithAFullDiskResignsOnce(t *testing.T) {
	signal.Ignore(syscall.SIGXFSZ)
	t.Cleanup(func() { signal.Reset(syscall.SIGXFSZ) })
	content := randomContent(20 * full)
	reg := newFakeRegistry(t)
	fake := &scriptedCDN{events: followEvents(content, `"v1"`), send: func(w http.ResponseWriter, r *http.Request) {
		num, _, _ := piece.ParseRange(r.Header.Get("Range")[len("bytes="):])
		partial206(wrapPiece(content[int(num)*full:min(len(content), (int(num)+1)*full)]))(w, r)
	}}
	reg.joinScriptedCDN(t, "owner", fake)
	b := reg.join(t, "b", cdn.Config{})
	id := idOf("full")
	var before syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before))
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 10 * size, Max: before.Max}))
	t.Cleanup(func() { require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before)) })
	reg.write(id, serveOrigin(t, plainFile(nil)), 7, "owner", "b")
	eventually(t, func() bool { return len(reg.resigned(id)) > 0 })
	requireNoFiles(t, b, id)
	eventually(t, func() bool {
		_, err := b.Stat(t.Context(), &cdnv1.StatRequest{TaskId: id})
		return err != nil
	})
	require.EqualValues(t, 1, fake.follows.Load(), "the copy is not retried")
}
