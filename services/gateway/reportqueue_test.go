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

// testTimeout is how long a test waits for a condition that must become true.
const testTimeout = 20 * time.Second

// shortBudget is a configuration with which a report is queued soon.
func shortBudget() gateway.Config {
	return gateway.Config{MaxHold: 20 * time.Millisecond, CallBudget: 120 * time.Millisecond}
}

// reports counts the calls that delivered reports to a scheduler.
type reports struct {
	suc, missing, down, metrics int
}

// reportsAt counts the reports that a scheduler received.
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

// rejectReports makes a scheduler fail reports until accept is called. Then it
// counts those that it accepts.
func rejectReports(s *scheduler) (accepted *atomic.Int32, accept func()) {
	accepted = &atomic.Int32{}
	var accepting atomic.Bool
	s.report = func(context.Context) error {
		if !accepting.Load() {
			return rpcerr.New(codes.Unavailable, "", "not now")
		}
		accepted.Add(1)
		return nil
	}
	return accepted, func() { accepting.Store(true) }
}

// awaitForwarded waits until the gateway has delivered n queued reports.
func awaitForwarded(gw *testGateway, n int) {
	gw.t.Helper()
	line := fmt.Sprintf("supernode_gateway_late_reports_total{result=\"forwarded\"} %d\n", n)
	require.Eventually(gw.t, func() bool {
		got, err := gw.trySend(http.MethodGet, "/metrics", "", nil)
		return err == nil && strings.Contains(got.raw, line)
	}, testTimeout, 10*time.Millisecond)
}

func TestReportIsAcknowledgedAndDeliveredLater(t *testing.T) {
	inMemNetwork(t, testReportIsAcknowledgedAndDeliveredLater)
}

func testReportIsAcknowledgedAndDeliveredLater(t *memNetwork) {
	s := &scheduler{id: "s1"}
	accepted, accept := rejectReports(s)
	gw := t.start(shortBudget(), s)
	require.Equal(t, 611, gw.get(sucA).code())
	require.Equal(t, 200, gw.get(errorA).code())
	require.Equal(t, 1, gw.post("/task/metrics", countA).code())
	require.Contains(t, gw.get("/metrics").raw, "supernode_gateway_late_reports_waiting 3")
	accept()
	awaitForwarded(gw, 3)
	require.EqualValues(t, 3, accepted.Load(), "each report is delivered once")
	require.Contains(t, gw.get("/metrics").raw, "supernode_gateway_late_reports_waiting 0")
}

// A scheduler that received a piece of a client after its service/down would list
// the client as a source again.
func TestServiceDownDropsQueuedPieceReports(t *testing.T) {
	inMemNetwork(t, testServiceDownDropsQueuedPieceReports)
}

func testServiceDownDropsQueuedPieceReports(t *memNetwork) {
	s := &scheduler{id: "s1"}
	accepted, accept := rejectReports(s)
	gw := t.start(shortBudget(), s)
	require.Equal(t, 611, gw.get(sucA).code())
	require.Equal(t, 612, gw.get(downA).code())
	before := reportsAt(s).suc
	accept()
	require.Eventually(t, func() bool { return accepted.Load() == 1 }, testTimeout, time.Millisecond)
	require.Equal(t, before, reportsAt(s).suc)
	require.Contains(t, gw.get("/metrics").raw, `supernode_gateway_late_reports_total{result="dropped"} 1`)
}

func TestServiceDownOfAnUnknownPeerIsNotQueued(t *testing.T) {
	s := &scheduler{id: "s1"}
	requireRegistration(s, rpcerr.TaskNotFound)
	gw := start(t, gateway.Config{}, s)
	for range 2 {
		require.Equal(t, 612, gw.get(downA).code())
	}
	require.Equal(t, reports{down: 2}, reportsAt(s))
	require.Contains(t, gw.get("/metrics").raw, "supernode_gateway_late_reports_waiting 0")
}

func TestReportOfAnUnknownPeerIsDeliveredOnceItRegisters(t *testing.T) {
	s := &scheduler{id: "s1"}
	requireRegistration(s, rpcerr.PeerNotFound)
	gw := start(t, gateway.Config{}, s)
	require.Equal(t, 611, gw.get(sucA).code())
	require.Equal(t, 200, gw.post("/peer/registry", good).code())
	awaitForwarded(gw, 1)
}

func TestInvalidReportIsRefusedAtOnce(t *testing.T) {
	s := &scheduler{id: "s1"}
	s.report = func(context.Context) error { return rpcerr.Invalid("the task has no such piece") }
	gw := start(t, gateway.Config{}, s)
	got := gw.get(sucA)
	require.Equal(t, http.StatusBadRequest, got.status)
	requireEnvelope(t, got)
	require.Contains(t, got.raw, "no such piece")
	require.Contains(t, gw.get("/metrics").raw, "supernode_gateway_late_reports_waiting 0")
}

func TestQueuedReportsAreDeliveredWhenTheGatewayStops(t *testing.T) {
	inMemNetwork(t, testQueuedReportsAreDeliveredWhenTheGatewayStops)
}

func testQueuedReportsAreDeliveredWhenTheGatewayStops(t *memNetwork) {
	s := &scheduler{id: "s1"}
	accepted, accept := rejectReports(s)
	gw := t.start(shortBudget(), s)
	require.Equal(t, 1, gw.post("/task/metrics", countA).code())
	require.Equal(t, 612, gw.get(downA).code())
	accept()
	require.NoError(t, gw.stop())
	require.EqualValues(t, 2, accepted.Load())
}
