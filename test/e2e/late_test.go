package e2e

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/test/cluster"
)

// ask gives the body of an answer, which must be 200.
func ask(t *testing.T, method, url, body string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // as dfget waits
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	require.NoError(t, err)
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode, "%s", answer)
	return string(answer)
}

// What clients report while there is no scheduler at all is told to the next
// one, once.
func TestReportsOutliveSchedulers(t *testing.T) {
	t.Parallel()
	address := cluster.Net(t)
	l := cluster.RunServices(t, binaries, cluster.RunEtcds(t, binaries, address(200)), cluster.AtAddresses(address), 1, nil)
	gateway, scheduler := l.All(cluster.Gateway)[0], l.All(cluster.Scheduler)[0]
	base := "http://" + gateway.REST
	const task, cid = "cd71c34dd87c301ae592859bc137bada697da48f11dd1f9b4f5f9d1690c5ce85", "127.0.4.1-1961-1795370490.359"
	scheduler.Kill()
	require.JSONEq(t, `{"code":1}`, ask(t, http.MethodPost, base+"/task/metrics",
		`{"IP":"127.0.4.1","backsourceReason":"0","cID":"`+cid+`","duration":0.5,"fileLength":9,"port":49568,"success":true,"taskId":"`+task+`"}`))
	require.JSONEq(t, `{"code":612}`, ask(t, http.MethodGet, base+"/peer/service/down?taskId="+task+"&cid="+cid, ""))
	scheduler.Launch(t)
	require.Eventually(t, func() bool {
		return strings.Contains(ask(t, http.MethodGet, base+"/metrics", ""), `supernode_gateway_late_reports_total{result="forwarded"} 2`)
	}, limit, 10*time.Millisecond)
}
