package gateway_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/gateway"
)

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// impatient gives up a report early.
func impatient() gateway.Config {
	return gateway.Config{MaxHold: 20 * time.Millisecond, CallBudget: 120 * time.Millisecond}
}

// reports counts what a scheduler was told once it takes reports.
type reports struct {
	suc, missing, down, metrics int
}

func reportsAt(s *scheduler) (r reports) {
	for _, call := range s.calls() {
		switch call.(type) {
		case *schedulerv1.ReportPieceRequest:
			r.suc++
		case *schedulerv1.ReportPieceErrorRequest:
			r.missing++
		case *schedulerv1.ReportPeerDownRequest:
			r.down++
		case *schedulerv1.ReportMetricsRequest:
			r.metrics++
		}
	}
	return r
}

// fickle makes a scheduler take no reports until it is let.
func fickle(s *scheduler) (taken *atomic.Int32, let func()) {
	taken = &atomic.Int32{}
	var there atomic.Bool
	s.report = func(context.Context) error {
		if !there.Load() {
			return rpcerr.New(codes.Unavailable, "", "not now")
		}
		taken.Add(1)
		return nil
	}
	return taken, func() { there.Store(true) }
}

// awaitForwarded waits until the gateway says that it has told so many reports.
func awaitForwarded(w *world, n int) {
	w.t.Helper()
	line := fmt.Sprintf("supernode_gateway_late_reports_total{result=\"forwarded\"} %d\n", n)
	require.Eventually(w.t, func() bool {
		got, err := w.trySend(http.MethodGet, "/metrics", "", nil)
		return err == nil && strings.Contains(got.raw, line)
	}, patience, 10*time.Millisecond)
}

func TestReportsAreTakenAndToldLater(t *testing.T) { inMemory(t, testReportsAreTakenAndToldLater) }

func testReportsAreTakenAndToldLater(t *memory) {
	s := &scheduler{id: "s1"}
	taken, let := fickle(s)
	w := t.start(impatient(), s)
	require.Equal(t, 611, w.get(sucA).code())
	require.Equal(t, 200, w.get(errorA).code())
	require.Equal(t, 1, w.post("/task/metrics", countA).code())
	require.Contains(t, w.get("/metrics").raw, "supernode_gateway_late_reports_waiting 3")
	let()
	awaitForwarded(w, 3)
	require.EqualValues(t, 3, taken.Load(), "each is told once")
	require.Contains(t, w.get("/metrics").raw, "supernode_gateway_late_reports_waiting 0")
}

// Who would be told of a piece of a client that has left would take it in again.
func TestFarewellEndsWhatWaits(t *testing.T) { inMemory(t, testFarewellEndsWhatWaits) }

func testFarewellEndsWhatWaits(t *memory) {
	s := &scheduler{id: "s1"}
	taken, let := fickle(s)
	w := t.start(impatient(), s)
	require.Equal(t, 611, w.get(sucA).code())
	require.Equal(t, 612, w.get(downA).code())
	before := reportsAt(s).suc
	let()
	require.Eventually(t, func() bool { return taken.Load() == 1 }, patience, time.Millisecond)
	require.Equal(t, before, reportsAt(s).suc)
	require.Contains(t, w.get("/metrics").raw, `supernode_gateway_late_reports_total{result="dropped"} 1`)
}

func TestFarewellOfWhomNobodyKnowsIsDone(t *testing.T) {
	s := &scheduler{id: "s1"}
	oblivious(s, rpcerr.TaskNotFound)
	w := start(t, gateway.Config{}, s)
	for range 2 {
		require.Equal(t, 612, w.get(downA).code())
	}
	require.Equal(t, reports{down: 2}, reportsAt(s))
	require.Contains(t, w.get("/metrics").raw, "supernode_gateway_late_reports_waiting 0")
}

// A piece of a peer that no scheduler knows is told once it is known.
func TestReportWaitsUntilThePeerIsKnown(t *testing.T) {
	s := &scheduler{id: "s1"}
	oblivious(s, rpcerr.PeerNotFound)
	w := start(t, gateway.Config{}, s)
	require.Equal(t, 611, w.get(sucA).code())
	require.Equal(t, 200, w.post("/peer/registry", good).code())
	awaitForwarded(w, 1)
}

func TestWrongReportIsRefusedAtOnce(t *testing.T) {
	s := &scheduler{id: "s1"}
	s.report = func(context.Context) error { return rpcerr.Invalid("the task has no such piece") }
	w := start(t, gateway.Config{}, s)
	got := w.get(sucA)
	require.Equal(t, http.StatusBadRequest, got.status)
	requireEnvelope(t, got)
	require.Contains(t, got.raw, "no such piece")
	require.Contains(t, w.get("/metrics").raw, "supernode_gateway_late_reports_waiting 0")
}

// What waits when the gateway is told to stop is told then.
func TestReportsAreToldBeforeTheGatewayEnds(t *testing.T) {
	inMemory(t, testReportsAreToldBeforeTheGatewayEnds)
}

func testReportsAreToldBeforeTheGatewayEnds(t *memory) {
	s := &scheduler{id: "s1"}
	taken, let := fickle(s)
	w := t.start(impatient(), s)
	require.Equal(t, 1, w.post("/task/metrics", countA).code())
	require.Equal(t, 612, w.get(downA).code())
	let()
	require.NoError(t, w.stop())
	require.EqualValues(t, 2, taken.Load())
}
