package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/test/cluster"
)

// metrics gives those of a process, or says why there are none yet.
func metrics(ctx context.Context, address string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", resp.Status, text)
	}
	return string(text), nil
}

// awaitMetric waits until one of a process has a value.
func awaitMetric(t *testing.T, address, name string, value int) {
	t.Helper()
	line := fmt.Sprintf("\n%s %d\n", name, value)
	require.Eventually(t, func() bool {
		text, err := metrics(t.Context(), address)
		return err == nil && strings.Contains(text, line)
	}, limit, 10*time.Millisecond, "%s at %s is to be %d", name, address, value)
}

// What clients report while there is no scheduler at all is told to the next
// one, once.
func TestReportsOutliveSchedulers(t *testing.T) {
	t.Parallel()
	address := cluster.Net(t)
	admin := strconv.Itoa(cluster.FreePort(t))
	l := cluster.RunServices(t, binaries, cluster.RunEtcds(t, binaries, address(200)), cluster.AtAddresses(address), 1,
		map[cluster.Role][]string{cluster.Scheduler: {"--admin-port", admin}})
	gateway, scheduler := l.All(cluster.Gateway)[0], l.All(cluster.Scheduler)[0]
	base := "http://" + gateway.REST
	const task, cid = "cd71c34dd87c301ae592859bc137bada697da48f11dd1f9b4f5f9d1690c5ce85", "127.0.4.1-1961-1795370490.359"
	scheduler.Kill()
	status, e := send(t, http.MethodPost, base+"/task/metrics",
		`{"IP":"127.0.4.1","backsourceReason":"0","cID":"`+cid+`","duration":0.5,"fileLength":9,"port":49568,"success":true,"taskId":"`+task+`"}`)
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, 1, e.Code)
	status, e = send(t, http.MethodGet, base+"/peer/service/down?taskId="+task+"&cid="+cid, "")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, 612, e.Code)
	scheduler.Launch(t)
	told := net.JoinHostPort(scheduler.IP, admin)
	const downloads = `supernode_scheduler_downloads_total{back_to_source="no",result="success"}`
	awaitMetric(t, told, downloads, 1)
	awaitMetric(t, gateway.REST, `supernode_gateway_late_reports_total{result="forwarded"}`, 2)
	text, err := metrics(t.Context(), told)
	require.NoError(t, err)
	require.Contains(t, text, "\n"+downloads+" 1\n", "nothing waits any more, and it was told once")
}
