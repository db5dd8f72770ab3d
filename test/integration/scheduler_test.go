package integration

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/cdn"
	"github.com/supernode-ha/supernode/test/origin"
)

// part is how much of the content is in a piece, and fileSize that of a file
// of three.
const (
	part     = piece.MinSize - piece.WrapLength
	fileSize = 2*part + 1000
)

func TestDownload(t *testing.T) {
	t.Parallel()
	w, d, content := served(t)
	a := newPeer(t, d, "a", w.origin.URL("/f"))
	a.port = 20001
	facts := a.mustRegister()
	require.EqualValues(t, fileSize, facts.GetLength())
	require.Equal(t, piece.SizeFor(fileSize), facts.GetPieceSize())
	a.finish(content)
	b := newPeer(t, d, "b", w.origin.URL("/f"))
	b.mustRegister()
	_, err := b.pull()
	require.NoError(t, err)
	require.Len(t, b.offers, 1, "a source sends one piece at first")
	for _, o := range b.offers {
		require.Equal(t, "a", o.GetPeerId(), "peers come before the CDN")
	}
	require.EqualValues(t, 1, w.origin.Stats("/f").Bodies)
	list, err := d.ListPeers(t.Context(), &schedulerv1.ListPeersRequest{Limit: 10})
	require.NoError(t, err)
	require.Len(t, list.GetEntries(), 1, "b has nothing yet")
	require.Equal(t, "a", list.GetEntries()[0].GetPeer().GetId())
	require.Equal(t, []int32{0, 1, 2}, list.GetEntries()[0].GetPieces())
	list, err = d.ListPeers(t.Context(), &schedulerv1.ListPeersRequest{Limit: 10, Urls: []string{"http://127.0.0.1/other"}})
	require.NoError(t, err)
	require.Empty(t, list.GetEntries())
}

func TestUnknownTasksAndPeers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addCDN("c", cdn.Config{})
	d := w.addScheduler("s", patient())
	w.origin.Put("/f", origin.File{Size: 10})
	a, b := newPeer(t, d, "a", w.origin.URL("/f")), newPeer(t, d, "b", w.origin.URL("/f"))
	b.report = &schedulerv1.PullPiecesRequest{Status: schedulerv1.PullStatus_PULL_STATUS_RUNNING}
	_, err := b.pull()
	require.Equal(t, rpcerr.TaskNotFound, rpcerr.ReasonOf(err))
	a.mustRegister()
	_, err = b.pull()
	require.Equal(t, rpcerr.PeerNotFound, rpcerr.ReasonOf(err))
}

func TestRefusalIsRememberedForTheOneWhoWasRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addCDN("c", cdn.Config{})
	d := w.addScheduler("s", patient())
	content := origin.Content(10, 1)
	w.origin.Put("/f", origin.File{Content: content, RequireHeader: origin.Header{Name: "Token", Value: "right"}})

	for range 3 {
		_, err := newPeer(t, d, "missing", w.origin.URL("/missing")).register()
		require.Equal(t, rpcerr.SourceNotFound, rpcerr.ReasonOf(err))
		_, err = newPeer(t, d, "wrong", w.origin.URL("/f"), "Token: wrong").register()
		require.Equal(t, rpcerr.SourceAuthRequired, rpcerr.ReasonOf(err))
	}
	require.EqualValues(t, 1, w.origin.Stats("/missing").Requests)
	require.EqualValues(t, 1, w.origin.Stats("/f").Requests)

	right := newPeer(t, d, "right", w.origin.URL("/f"), "Token: right")
	right.mustRegister()
	right.finish(content)
}

func TestSourceIsAskedAgainAfterTheInterval(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addCDN("c", cdn.Config{})
	cfg := patient()
	cfg.FailAccessInterval = time.Nanosecond
	d := w.addScheduler("s", cfg)
	_, err := newPeer(t, d, "a", w.origin.URL("/f")).register()
	require.Equal(t, rpcerr.SourceNotFound, rpcerr.ReasonOf(err))
	w.origin.Put("/f", origin.File{Size: 10})
	newPeer(t, d, "a", w.origin.URL("/f")).mustRegister()
}

func TestAnotherSchedulersTask(t *testing.T) {
	t.Parallel()
	w, first, content := served(t)
	second := w.addScheduler("s2", patient())
	sees(t, second.view, cluster.Scheduler, "s1")
	a := newPeer(t, first, "a", w.origin.URL("/f"))
	a.mustRegister()

	b := newPeer(t, second, "b", w.origin.URL("/f"))
	b.report = &schedulerv1.PullPiecesRequest{Status: schedulerv1.PullStatus_PULL_STATUS_STARTED}
	_, registerErr := b.register()
	_, pullErr := b.pull()
	for _, err := range []error{registerErr, pullErr} {
		e := rpcerr.From(err)
		require.Equal(t, rpcerr.NotOwner, e.Reason, "%v", err)
		require.Equal(t, "s1", e.Metadata["scheduler_id"])
		require.Equal(t, first.endpoint, e.Metadata["endpoint"])
	}

	// It dies: the other one takes over, and takes the peer with what it has.
	_, err := a.work(func() bool { return len(a.parts) == 1 })
	require.NoError(t, err)
	first.stop()
	a.desk, a.offers = second, nil
	a.mustRegister()
	a.finish(content)
	require.EqualValues(t, 1, w.origin.Stats("/f").Bodies)
}

func TestTaskIsNobodysAsLongAsTheRegistryIsSilent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addCDN("c", cdn.Config{})
	d := w.addScheduler("s1", patient())
	other := w.addScheduler("s2", patient())
	content := origin.Content(fileSize, 1)
	w.origin.Put("/f", origin.File{Content: content, StallAfter: part + 1})
	a := newPeer(t, d, "a", w.origin.URL("/f"))
	a.mustRegister()
	w.registry.stop()
	b := newPeer(t, other, "a", w.origin.URL("/f"))
	b.report = &schedulerv1.PullPiecesRequest{Status: schedulerv1.PullStatus_PULL_STATUS_RUNNING}
	_, err := b.pull()
	require.Equal(t, codes.Unavailable, status.Code(err), "s1 may have it, and has")
	w.origin.Release("/f")
	a.finish(content)
}

// halfway has a peer take the first piece of a file whose source then stalls,
// and gives the port of the CDN that fetches it.
func halfway(t *testing.T, w *world, d *desk, content []byte) (*peer, int32) {
	t.Helper()
	w.origin.Put("/f", origin.File{Content: content, StallAfter: part + 1, StallRequests: 1})
	a := newPeer(t, d, "a", w.origin.URL("/f"))
	a.mustRegister()
	_, err := a.work(func() bool { return len(a.parts) == 1 })
	require.NoError(t, err)
	return a, a.from
}

func TestCDNThatEndsInTheMiddleIsReplaced(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addCDN("c1", cdn.Config{})
	w.addCDN("c2", cdn.Config{})
	d := w.addScheduler("s", patient())
	content := origin.Content(fileSize, 1)
	a, owner := halfway(t, w, d, content)
	w.cdns[owner].stop()
	a.finish(content)
	require.NotEqual(t, owner, a.from)
}

func TestSourceThatChangedIsNotMixedWithWhatItWas(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addCDN("c1", cdn.Config{})
	w.addCDN("c2", cdn.Config{})
	d := w.addScheduler("s", patient())
	a, owner := halfway(t, w, d, origin.Content(fileSize, 1))
	fresh := origin.Content(fileSize, 2)
	w.origin.Change("/f", origin.File{Content: fresh})
	w.cdns[owner].stop()
	_, err := a.work(func() bool { return false })
	require.Equal(t, rpcerr.SourceBroken, rpcerr.ReasonOf(err), "%v", err)

	b := newPeer(t, d, "b", w.origin.URL("/f"))
	b.mustRegister()
	b.finish(fresh)
	_, err = a.pull()
	require.Equal(t, rpcerr.SourceBroken, rpcerr.ReasonOf(err), "it has a piece that is not of this file")
	_, err = a.register()
	require.Equal(t, rpcerr.SourceBroken, rpcerr.ReasonOf(err))
}

func TestTaskThatIsCutAnewBeginsAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	slow := cdn.Config{FactsTimeout: 20 * time.Millisecond}
	w.addCDN("c1", slow)
	w.addCDN("c2", cdn.Config{})
	d := w.addScheduler("s", patient())
	// What is known of a big file that is slow to answer is the size of a
	// piece of one of unknown length.
	w.origin.Put("/f", origin.File{Size: 1 << 30, StallAfter: 1, HeaderDelay: time.Hour})
	a := newPeer(t, d, "a", w.origin.URL("/f"))
	facts := a.mustRegister()
	require.EqualValues(t, -1, facts.GetLength())
	w.origin.Change("/f", origin.File{Size: 1 << 30, StallAfter: 1})
	record, err := w.client(d.node).GetTask(t.Context(), getTask(a.task))
	require.NoError(t, err)
	for _, n := range w.cdns {
		if m, _ := d.view.Find(cluster.CDN, record.GetRecord().GetOwner()); m.Endpoint == n.endpoint {
			n.stop()
		}
	}
	_, err = a.work(func() bool { return false })
	require.Equal(t, rpcerr.TaskNotFound, rpcerr.ReasonOf(err), "%v", err)
	facts = a.mustRegister()
	require.EqualValues(t, 1<<30, facts.GetLength())
	require.Equal(t, piece.SizeFor(1<<30), facts.GetPieceSize())
}

func TestTaskIsPutAwayAndComesBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addCDN("c", cdn.Config{})
	cfg := patient()
	cfg.GCInitialDelay, cfg.GCInterval, cfg.TaskExpireTime = 0, 20*time.Millisecond, 300*time.Millisecond
	d := w.addScheduler("s", cfg)
	content := origin.Content(fileSize, 1)
	w.origin.Put("/f", origin.File{Content: content, ETag: `"1"`})
	a := newPeer(t, d, "a", w.origin.URL("/f"))
	a.port = 20001
	a.mustRegister()
	a.finish(content)
	require.Eventually(t, func() bool { // to list is not to ask for
		list, err := d.ListPeers(t.Context(), &schedulerv1.ListPeersRequest{Limit: 1})
		return err == nil && len(list.GetEntries()) == 0
	}, patience, 10*time.Millisecond)
	_, err := a.pull()
	require.Equal(t, rpcerr.TaskNotFound, rpcerr.ReasonOf(err))
	b := newPeer(t, d, "b", w.origin.URL("/f"))
	b.mustRegister()
	b.finish(content)
	require.EqualValues(t, 1, w.origin.Stats("/f").Bodies)
}

func TestTaskIsNotPutAwayWhileAPeerIsBusyWithAPiece(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addCDN("c", cdn.Config{})
	cfg := patient()
	cfg.GCInitialDelay, cfg.GCInterval, cfg.TaskExpireTime = 0, 5*time.Millisecond, time.Millisecond
	d := w.addScheduler("s", cfg)
	w.origin.Put("/done", origin.File{Size: 10})
	w.origin.Put("/busy", origin.File{Size: fileSize})
	busy := newPeer(t, d, "busy", w.origin.URL("/busy"))
	busy.mustRegister()
	_, err := busy.pull()
	require.NoError(t, err)
	gone := newPeer(t, d, "gone", w.origin.URL("/done"))
	gone.mustRegister()
	_, err = d.ReportPeerDown(t.Context(), &schedulerv1.ReportPeerDownRequest{TaskId: gone.task, PeerId: "gone"})
	if err != nil { // it was put away before
		require.Equal(t, rpcerr.TaskNotFound, rpcerr.ReasonOf(err))
	}
	require.Eventually(t, func() bool {
		_, err := d.ReportPeerDown(t.Context(), &schedulerv1.ReportPeerDownRequest{TaskId: gone.task, PeerId: "gone"})
		return rpcerr.ReasonOf(err) == rpcerr.TaskNotFound
	}, patience, 20*time.Millisecond, "tasks are put away")
	_, err = busy.pull()
	require.NoError(t, err)
}

func TestCDNThatLostItsCopyFetchesAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	home := w.addCDN("c", cdn.Config{})
	d := w.addScheduler("s", patient())
	content := origin.Content(fileSize, 1)
	w.origin.Put("/f", origin.File{Content: content})
	a := newPeer(t, d, "a", w.origin.URL("/f"))
	a.mustRegister()
	a.finish(content)
	require.NoError(t, os.RemoveAll(home+"/repo/download"))
	b := newPeer(t, d, "b", w.origin.URL("/f"))
	b.mustRegister()
	b.finish(content)
	require.EqualValues(t, 2, w.origin.Stats("/f").Bodies)
}

func TestWithoutACDNNobodyIsRefusedForGood(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.addScheduler("s", patient())
	content := origin.Content(fileSize, 1)
	w.origin.Put("/f", origin.File{Content: content})
	a := newPeer(t, d, "a", w.origin.URL("/f"))
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := d.RegisterPeer(ctx, &schedulerv1.RegisterPeerRequest{
		TaskId: a.task, Source: a.src, Peer: &schedulerv1.Peer{Id: "a", Ip: "127.0.0.1"},
	})
	require.Error(t, err)
	w.addCDN("c", cdn.Config{})
	a.mustRegister()
	a.finish(content)
}
