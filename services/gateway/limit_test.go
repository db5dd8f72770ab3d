package gateway_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/pkg/settings"
	"github.com/supernode-ha/supernode/services/gateway"
)

// dfget waits for a second after 609 and registers again at the same address.
func TestClientThatRegistersTooOftenIsAskedToWait(t *testing.T) {
	s := &scheduler{id: "s1"}
	gw := start(t, gateway.Config{MaxRegistrations: 1}, s)
	var refused answer
	accepted := 0
	for refused.code() != 609 {
		require.Less(t, accepted, 1000, "nothing is refused")
		refused = gw.post("/v1.0/peer/registry", good)
		if refused.code() == 200 {
			accepted++
		}
	}
	require.GreaterOrEqual(t, accepted, 5, "several downloads may begin at the same time")
	require.Len(t, s.calls(), accepted)
	require.Equal(t, http.StatusOK, refused.status)
	require.Equal(t, "1", refused.header.Get("Retry-After"))
	require.JSONEq(t, `{"code":609,"msg":"this address registers too often (--max-registrations); try again in a second"}`, refused.raw)

	require.Equal(t, 602, gw.get(pullA).code(), "a download that has begun goes on")
	require.Contains(t, gw.get("/metrics").raw, `supernode_gateway_requests_total{code="609",route="/peer/registry"} 1`)
	require.Contains(t, gw.get("/metrics").raw, "supernode_gateway_limited_registrations_total 1")
	gw.requireNoWarnings()
}

// A flood must not cost the decoding of its bodies.
func TestRefusedRegistrationIsNotDecoded(t *testing.T) {
	gw := start(t, gateway.Config{MaxRegistrations: 1}, &scheduler{id: "s1"})
	code := 0
	for range 1000 {
		if code = gw.post("/peer/registry", "no JSON").code(); code != http.StatusBadRequest {
			break
		}
	}
	require.Equal(t, 609, code)
}

func TestSettingOfZeroMeansNoLimitOfRegistrations(t *testing.T) {
	require.Negative(t, gateway.ConfigFrom("g", &settings.Settings{}).MaxRegistrations)
	require.Equal(t, 7, gateway.ConfigFrom("g", &settings.Settings{MaxRegistrations: 7}).MaxRegistrations)
	gw := start(t, gateway.Config{MaxRegistrations: -1}, &scheduler{id: "s1"})
	for range 20 {
		require.Equal(t, 200, gw.post("/peer/registry", good).code())
	}
}
