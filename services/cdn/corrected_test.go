package cdn_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/services/cdn"
)

// A record that does not know that the task is whole is told so, also if the
// copy was read from disk just because somebody follows it.
func TestCopyThatIsOnlyFollowedCorrectsItsRecord(t *testing.T) {
	content := noise(1000)
	o := serveOrigin(t, file(content, `"v1"`))
	id := idOf("followed")
	home := left(t, id, o.source(), content)
	h := newHall(t)
	h.write(id, o, 7, "a", "b")
	a := h.join(t, "a", cdn.Config{HomeDir: home})
	got, err := hear(a.follow(t, id, false))
	require.NoError(t, err)
	a.check(t, id, got, content)
	eventually(t, func() bool {
		told := h.of(id)
		return len(told) > 0 && told[0].GetEpoch() == 7 && told[0].GetStatus() == registryv1.TaskStatus_TASK_STATUS_SUCCESS
	})
}
